"""Measures how much accuracy an int8 model file loses on a processor that has AVX2 and nothing newer.

If this machine's processor has newer instructions, the file runs in a process on an emulated processor. The emulator
computes the same outputs as a real processor, but slowly, so only a sample of the test questions is used. The command
`python -m deepseek.demo.avx2 MODEL.onnx QUESTIONS.npz` prints the fraction of the questions that a file answers
correctly.
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
"""Name of the array that contains, for each question, the index of the correct label. No model input has this name."""

_TIMEOUT_S = 120.0


@contextmanager
def measuring(
    fp32: Path, int8: Path | None, questions: Mapping[str, npt.NDArray[Any]], folder: Path
) -> Iterator[Callable[[], float | None]]:
    """Measures the int8 file's loss of accuracy in a background process during the `with` block.

    Args:
        fp32: The float32 file. Its accuracy is measured on this machine's processor.
        int8: The int8 file; None if the version does not have one.
        questions: One array per model input, each with the values of all questions, and the array `TARGET`.
        folder: Folder for temporary files.

    Yields:
        A function that waits for the end of the measurement. It returns by how many percentage points the accuracy of
        the int8 file is lower than that of the float32 file; a negative number means that the int8 file is better. It
        returns None if there is no int8 file, if an emulator is needed but not available, or if the measurement fails
        or does not finish in time.
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
        # If ONNX Runtime needs an instruction that the emulator lacks, the process exits without a result.
        return None if process.returncode else 100 * (accuracy(fp32, arrays) - float(lines[-1]))

    try:
        yield points
    finally:
        terminate(process, grace_s=0)


def accuracy(model: Path, questions: Path) -> float:
    """Returns the fraction of the questions that a model file answers correctly on the current processor.

    The model runs on one question at a time.

    Args:
        model: The model file.
        questions: File in .npz format with the arrays that `measuring` describes.
    """
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
