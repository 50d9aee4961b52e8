"""Kinds of processor for tests: the machine's own, and an emulated one with AVX2 only.

Intel and AMD processors without VNNI add two 8-bit products in 16 bits, which saturates; a machine with AVX-512 shows
that only under an emulator. Debian's qemu-user emulates such a processor for one process. It shows whether results are
correct, but says nothing about speed: Python with ONNX Runtime takes some 5 s to start there.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from deepseek.processor import haswell, instruction_set, saturates
from tests.harness.servers import missing

KINDS = ("native", "haswell")
_HASWELL = haswell()
_TIMEOUT_S = 300
_ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Processor:
    """A kind of processor, and the command that starts a Python program on it.

    Attributes:
        kind: Of `KINDS`.
        saturates: Whether 8-bit products do, which a native one may as well.
        command: Precedes the interpreter.
    """

    kind: str
    saturates: bool
    command: Sequence[str] = ()

    def python(self, *arguments: str | Path) -> str:
        """Returns the output of Python on this processor; if its exit status is not 0, the test fails with its errors.

        Args:
            arguments: Arguments of the interpreter, e.g. `-c`, a program and its arguments.
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

    The test is skipped if the kind is not available; in CI it fails if only the emulator is missing.
    """
    if kind == "native":
        return Processor(kind, saturates(instruction_set()))
    if _HASWELL is None:
        missing("no qemu-x86_64: install Debian's qemu-user")
    if not _HASWELL:
        pytest.skip(f"haswell differs from processors with AVX-512 or VNNI; this one is {instruction_set()}")
    return Processor(kind, saturates("avx2"), _HASWELL)


def covered() -> str:
    """Lists the kinds of processor on which tests run here, for the header of a report."""
    emulated = "avx2, emulated" if _HASWELL else "not emulated"
    return f"native ({instruction_set()}), haswell ({emulated})"
