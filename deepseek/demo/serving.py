"""Sends every test question through a served model, and through the same ONNX file without a server."""

import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from deepseek.client import Mesh
from deepseek.data.sample import Sample
from deepseek.demo import avx2
from deepseek.models.inputs import encode_inputs
from deepseek.models.manifest import ModelManifest

Arrays = dict[str, npt.NDArray[Any]]


@dataclass(frozen=True)
class Asked:
    """One question, what the model said, and what is right.

    Attributes:
        image: The encoded image file.
        question: The question.
        answer: The right label.
        predicted: The model's label.
        latency_s: Seconds from asking to the answer, as the client saw it.
    """

    image: bytes
    question: str
    answer: str
    predicted: str
    latency_s: float


def accuracy(asked: Iterable[Asked]) -> float:
    """Share of right answers, 0 to 1."""
    outcomes = [one.predicted == one.answer for one in asked]
    return sum(outcomes) / len(outcomes)


def _questions(samples: Iterable[Sample], manifest: ModelManifest) -> Iterator[tuple[Sample, int, Arrays]]:
    """Each question of each sample, with the tensors of a request for it alone."""
    for sample in samples:
        for index, question in enumerate(sample.values["question"]):
            yield sample, index, encode_inputs(manifest, {"image": sample.values["image"], "question": question})


def some_questions(manifest: ModelManifest, samples: Iterable[Sample], every: int) -> Arrays:
    """The tensors of every n-th question, and the positions of the correct answers (`avx2.TARGET`)."""
    chosen = list(islice(_questions(samples, manifest), 0, None, every))
    labels = manifest.outputs[0].labels
    stacked = {name: np.concatenate([inputs[name] for _, _, inputs in chosen]) for name in chosen[0][2]}
    answers = [labels.index(sample.values["answer"][index]) for sample, index, _ in chosen]
    return {**stacked, avx2.TARGET: np.array(answers)}


def ask_served(
    mesh: Mesh, model: str, manifest: ModelManifest, samples: Iterable[Sample], on_answer: Callable[[int], None]
) -> list[Asked]:
    """Asks the inference service one question after the other, each in a request of its own."""
    output = manifest.outputs[0]
    asked = []
    for sample, index, inputs in _questions(samples, manifest):
        start = time.perf_counter()
        scores = mesh.inference.infer(model, inputs)[output.name]
        latency_s = time.perf_counter() - start
        values = sample.values
        predicted = output.labels[int(scores.argmax())]
        asked.append(Asked(values["image"], values["question"][index], values["answer"][index], predicted, latency_s))
        on_answer(len(asked))
    return asked


def offline_accuracy(onnx_file: Path, manifest: ModelManifest, samples: Iterable[Sample]) -> float:
    """Accuracy of an ONNX file by ONNX Runtime alone, with requests of the same shapes as `ask_served` sends.

    Equal shapes make equal sums in equal order, so a server that changes nothing has exactly this accuracy.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(onnx_file, options, providers=["CPUExecutionProvider"])
    output = manifest.outputs[0]

    def is_right(request: tuple[Sample, int, Arrays]) -> bool:
        sample, index, inputs = request
        scores = np.asarray(session.run([output.name], inputs)[0])
        return bool(output.labels[int(scores.argmax())] == sample.values["answer"][index])

    with ThreadPoolExecutor(max_workers=2) as pool:
        outcomes = list(pool.map(is_right, _questions(samples, manifest)))
    return sum(outcomes) / len(outcomes)
