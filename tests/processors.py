"""Kinds of processor that a test runs on: this machine's, and one with AVX2 only.

Intel and AMD processors without VNNI add two 8-bit products in 16 bits, which saturates; a machine with AVX-512 shows
that only under an emulator. Debian's qemu-user emulates it for one process. It is for right and wrong, never for
speed: Python with ONNX Runtime takes some 5 s to start there.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from deepseek.processor import haswell, instruction_set
from tests.servers import missing

KINDS = ("native", "haswell")
_HASWELL = haswell()
_TIMEOUT_S = 300
_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Processor:
    """A kind of processor, and how a Python program is started on it.

    Attributes:
        kind: Of `KINDS`.
        command: Precedes the interpreter.
    """

    kind: str
    command: Sequence[str] = ()

    def python(self, *arguments: str | Path) -> str:
        """Returns what Python prints on this processor; the test fails with its errors if it ends with another status.

        Args:
            arguments: Of the interpreter, such as `-c`, a program and what the program takes.
        """
        done = subprocess.run(
            [*self.command, sys.executable, *arguments],
            env={**os.environ, "PYTHONPATH": str(_ROOT)},
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout


def processor_of(kind: str) -> Processor:
    """Returns a processor of a kind.

    The test is skipped where the kind cannot be had, and fails in CI where it could be, had somebody installed it.
    """
    if kind == "native":
        return Processor(kind)
    if _HASWELL is None:
        missing("no qemu-x86_64: install Debian's qemu-user")
    if not _HASWELL:
        pytest.skip(f"haswell differs from processors with AVX-512 or VNNI; this one is {instruction_set()}")
    return Processor(kind, _HASWELL)


def covered() -> str:
    """Says which kinds tests run on here, for the head of a report."""
    emulated = "avx2, emulated" if _HASWELL else "not emulated"
    return f"native ({instruction_set()}), haswell ({emulated})"
