"""Measures how much accuracy an int8 file loses on a processor with AVX2 only, on any processor.

If this processor has more than AVX2, a process under an emulator loads the file and answers questions. The emulation is
exact but slow, so it answers only a sample of the questions. As a program, `python -m deepseek.demo.avx2 MODEL.onnx
QUESTIONS.npz` prints the share of correct answers.
"""

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from common.processes import python, spawn, terminate
from deepseek.processor import haswell

TARGET = "answer of the question"
"""Name of the array with the positions of the correct answers; no input of a model has this name."""

_TIMEOUT_S = 120.0


@contextmanager
def measuring(
    fp32: Path, int8: Path | None, questions: Mapping[str, npt.NDArray[Any]], folder: Path
) -> Iterator[Callable[[], float | None]]:
    """Measures in the background while the block runs.

    Args:
        fp32: The float32 file.
        int8: The int8 file, if the version has one.
        questions: For each input the values of all questions, and `TARGET`.
        folder: Folder for temporary files.

    Yields:
        A function that waits for the end and returns the loss in points, negative for a gain. It returns None if there
        is no int8 file, or if this processor has more than AVX2 and no emulator is installed or finishes in time.
    """
    command = haswell()
    if command is None or int8 is None:
        yield lambda: None
        return
    arrays, log = folder / "questions.npz", folder / "avx2.log"
    np.savez(arrays, **questions)  # type: ignore[arg-type]
    program = python("deepseek.demo.avx2", str(int8), str(arrays))
    process = spawn([*command, *program], env=None, log=log)

    def points() -> float | None:
        try:
            process.wait(_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            return None
        lines = log.read_text(encoding="utf-8").splitlines()
        # An emulator that lacks an instruction which the runtime needs exits without a result.
        return None if process.returncode else 100 * (accuracy(fp32, arrays) - float(lines[-1]))

    try:
        yield points
    finally:
        terminate(process, grace_s=0)


def accuracy(model: Path, questions: Path) -> float:
    """Share of questions that a file answers correctly on this process's processor, one question per request."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    with np.load(questions) as file:
        arrays = dict(file)
    right = arrays.pop(TARGET)
    found = [
        np.asarray(session.run(None, {name: array[i : i + 1] for name, array in arrays.items()})[0]).argmax()
        for i in range(len(right))
    ]
    return float(np.mean(np.array(found) == right))


if __name__ == "__main__":
    print(accuracy(Path(sys.argv[1]), Path(sys.argv[2])))
