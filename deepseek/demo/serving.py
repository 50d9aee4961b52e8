"""Asks a served model every test question, and runs the same ONNX file without a server for comparison."""

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
class AnsweredQuestion:
    """A question and the model's answer to it.

    Attributes:
        image: The encoded image file.
        question: The question.
        answer: The correct label.
        predicted: The label that the model predicted.
        latency_s: Duration of the request as measured by the client, in seconds.
    """

    image: bytes
    question: str
    answer: str
    predicted: str
    latency_s: float


def accuracy(asked: Iterable[AnsweredQuestion]) -> float:
    """Returns the fraction of correct predictions, from 0 to 1."""
    outcomes = [one.predicted == one.answer for one in asked]
    return sum(outcomes) / len(outcomes)


def _questions(samples: Iterable[Sample], manifest: ModelManifest) -> Iterator[tuple[Sample, int, Arrays]]:
    """Yields, for each question, its sample, its index in that sample, and the input tensors of the request."""
    for sample in samples:
        for index, question in enumerate(sample.values["question"]):
            yield sample, index, encode_inputs(manifest, {"image": sample.values["image"], "question": question})


def some_questions(manifest: ModelManifest, samples: Iterable[Sample], every: int) -> Arrays:
    """Selects every n-th question, where n is `every`, and returns the arrays that `avx2.measuring` expects."""
    chosen = list(islice(_questions(samples, manifest), 0, None, every))
    labels = manifest.outputs[0].labels
    stacked = {name: np.concatenate([inputs[name] for _, _, inputs in chosen]) for name in chosen[0][2]}
    answers = [labels.index(sample.values["answer"][index]) for sample, index, _ in chosen]
    return {**stacked, avx2.TARGET: np.array(answers)}


def ask_served(
    mesh: Mesh, model: str, manifest: ModelManifest, samples: Iterable[Sample], on_answer: Callable[[int], None]
) -> list[AnsweredQuestion]:
    """Sends every question to the inference service, one question per request.

    Args:
        mesh: Client of the mesh.
        model: Name of the model.
        manifest: Manifest of the served version.
        samples: Samples that contain the questions.
        on_answer: Called after each answer with the number of answers so far.
    """
    output = manifest.outputs[0]
    asked = []
    for sample, index, inputs in _questions(samples, manifest):
        start = time.perf_counter()
        scores = mesh.inference.infer(model, inputs)[output.name]
        latency_s = time.perf_counter() - start
        values = sample.values
        predicted = output.labels[int(scores.argmax())]
        asked.append(
            AnsweredQuestion(values["image"], values["question"][index], values["answer"][index], predicted, latency_s)
        )
        on_answer(len(asked))
    return asked


def offline_accuracy(onnx_file: Path, manifest: ModelManifest, samples: Iterable[Sample]) -> float:
    """Returns the accuracy, from 0 to 1, of an ONNX file that ONNX Runtime runs without a server.

    The inputs have the same shapes as those in `ask_served`, so ONNX Runtime adds floating-point numbers in the same
    order and computes identical outputs. The accuracy of the served model is therefore expected to be exactly equal.
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
