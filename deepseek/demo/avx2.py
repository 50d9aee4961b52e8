"""What an int8 file loses on a processor with AVX2 only, whatever processor this is.

Where this one has more, a process on an emulated processor loads the file and answers questions. That is as exact as a
real one, and slow, so a part of the questions has to do. As a program: `python -m
deepseek.demo.avx2 MODEL.onnx QUESTIONS.npz` prints the share of right answers.
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
"""Name of the array with the positions of the right answers; no input of a model is called so."""

_TIMEOUT_S = 120.0


@contextmanager
def measuring(
    fp32: Path, int8: Path | None, questions: Mapping[str, npt.NDArray[Any]], folder: Path
) -> Iterator[Callable[[], float | None]]:
    """Measures beside what is in the block.

    Args:
        fp32: The float32 file.
        int8: The int8 file, if the version has one.
        questions: For each input the values of all questions, and `TARGET`.
        folder: Working space.

    Yields:
        A function that waits for the end and returns the loss in points, negative for a gain; None where this
        processor has more than AVX2 and no emulator is installed or ends in time, or there is no int8 file.
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
        # An emulator that knows an instruction less than the runtime takes for granted ends without an answer.
        return None if process.returncode else 100 * (accuracy(fp32, arrays) - float(lines[-1]))

    try:
        yield points
    finally:
        terminate(process, grace_s=0)


def accuracy(model: Path, questions: Path) -> float:
    """Share of questions that a file answers rightly on this process's processor, one question per request."""
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
