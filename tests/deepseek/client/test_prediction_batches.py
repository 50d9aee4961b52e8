"""Requests that a predictor sends, and how it splits the answers into rows. The service is a function here."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from common.errors import FailedPrecondition, InvalidArgument, ResourceExhausted
from deepseek.client import predictor
from deepseek.client.predictor import Predictor
from deepseek.models.manifest import ModelFile, ModelManifest, TensorSpec

Arrays = dict[str, npt.NDArray[Any]]


def serve(
    monkeypatch: pytest.MonkeyPatch, infer: Callable[[Arrays], Arrays], labels: tuple[str, ...] = (), batch: int = -1
) -> Predictor:
    manifest = ModelManifest(
        model="onnx",
        run="",
        dataset_version="",
        files=(ModelFile("model.onnx", "onnx", "ab" * 32, 10),),
        served="model.onnx",
        inputs=(TensorSpec("x", "FP32", (batch, 2)),),
        outputs=(TensorSpec("y", "FP32", (batch, 2), labels=labels),),
    )
    mesh: Any = SimpleNamespace(
        inference=SimpleNamespace(infer=lambda _, arrays, version: infer(arrays)),
        models=SimpleNamespace(manifest=lambda _: manifest, version=lambda name: name),
    )
    monkeypatch.setattr(predictor, "served_number", lambda *_, **__: ("m", 1))
    return Predictor(mesh, "m")


ROWS = [{"x": [number, 0]} for number in range(5)]


def test_text_is_an_output_of_each_row(monkeypatch: pytest.MonkeyPatch) -> None:
    served = serve(monkeypatch, lambda arrays: {"y": np.array([b"a", b"b", b"c", b"d", b"\xc3\xa9"], object)})
    assert [one.outputs["y"].item() for one in served.predict(ROWS)] == [b"a", b"b", b"c", b"d", b"\xc3\xa9"]
    nested = np.array([[b"a", b"b"]] * 5, object)
    served = serve(monkeypatch, lambda arrays: {"y": nested})
    assert next(served.predict(ROWS)).outputs["y"].tolist() == [b"a", b"b"]


@pytest.mark.parametrize("output", [np.float32(1), np.zeros(3), np.zeros((2, 5))])
def test_an_output_without_batch_axis_is_an_error_with_the_next_step(
    monkeypatch: pytest.MonkeyPatch, output: Any
) -> None:
    with pytest.raises(FailedPrecondition, match="deepseek infer") as caught:
        list(serve(monkeypatch, lambda arrays: {"y": output}).predict(ROWS))
    assert (caught.value.reason, caught.value.field) == ("NO_BATCH_AXIS", "y")


def test_large_rows_are_sent_in_small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []

    def infer(arrays: Arrays) -> Arrays:
        sizes.append(len(arrays["x"]))
        return {"y": arrays["x"]}

    monkeypatch.setattr(predictor, "_MAX_BATCH_BYTES", 16)
    found = list(serve(monkeypatch, infer).predict(ROWS))
    assert [one.outputs["y"][0] for one in found] == [0, 1, 2, 3, 4]
    assert sizes == [2, 2, 1]


def test_a_row_that_needs_too_much_memory_costs_only_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    def infer(arrays: Arrays) -> Arrays:
        if 3 in arrays["x"]:
            raise ResourceExhausted("OUT_OF_MEMORY", "too large")
        return {"y": arrays["x"]}

    found = list(serve(monkeypatch, infer).predict(ROWS))
    assert [one.error and one.error.reason for one in found] == [None, None, None, "OUT_OF_MEMORY", None]


def test_scores_that_are_not_finite_are_an_error_of_their_row(monkeypatch: pytest.MonkeyPatch) -> None:
    def infer(arrays: Arrays) -> Arrays:
        return {"y": np.where(arrays["x"] == 2, np.nan, arrays["x"])}

    found = list(serve(monkeypatch, infer, labels=("a", "b")).predict(ROWS[1:]))
    assert [one.error and one.error.reason for one in found] == [None, "NOT_FINITE", None, None]


@pytest.mark.parametrize("size", [1, 2, 100])
def test_a_model_with_a_fixed_batch_size_gets_requests_of_that_size(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    sizes: list[int] = []

    def infer(arrays: Arrays) -> Arrays:
        sizes.append(len(arrays["x"]))
        return {"y": arrays["x"]}

    found = list(serve(monkeypatch, infer, batch=size).predict(ROWS))
    assert [one.outputs["y"][0] for one in found] == [0, 1, 2, 3, 4]
    assert sizes == [size] * len(range(0, len(ROWS), size))


@pytest.mark.parametrize(("batch", "portion"), [(-1, 64), (1, 64), (48, 96), (100, 100)])
def test_portions_of_rows_fill_the_batches_of_a_model(
    monkeypatch: pytest.MonkeyPatch, batch: int, portion: int
) -> None:
    assert serve(monkeypatch, lambda arrays: {}, batch=batch).portion == portion


def test_an_error_about_an_input_of_the_request_names_the_field(monkeypatch: pytest.MonkeyPatch) -> None:
    def infer(arrays: Arrays) -> Arrays:
        raise InvalidArgument("BAD_INPUT", "a bad shape", field="inputs[0].shape")

    found = list(serve(monkeypatch, infer).predict(ROWS[:1]))
    assert [one.error and one.error.field for one in found] == ["x"]
