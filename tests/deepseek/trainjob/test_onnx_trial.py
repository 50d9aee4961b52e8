"""Examples that do not fit: whatever is wrong with the file, the error says so and names the example."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort
import pytest
from onnx import helper

from common.errors import InvalidArgument
from deepseek.trainjob.onnx_trial import try_requests
from tests.services.trainer import onnx_models


def npz(**arrays: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.savez_compressed(file, allow_pickle=False, **arrays)
    return file.getvalue()


def npy(array: npt.NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


GOOD = npz(x=np.zeros((1, 4), np.float32))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not an archive",
        npy(np.zeros((1, 4), np.float32)),
        GOOD[: len(GOOD) // 2],
        GOOD[:40] + bytes(len(GOOD[40:80])) + GOOD[80:],
        npz(x=np.float32(0)[...]),
        npz(x=np.zeros(4, np.float32)),
        npz(x=np.zeros((1, 1, 4), np.float32)),
        npz(x=np.zeros((1, 4), np.complex64)),
        npz(y=np.zeros((1, 4), np.float32)),
    ],
)
def test_a_wrong_example_is_refused_by_name(tmp_path: Path, content: bytes) -> None:
    session = ort.InferenceSession(onnx_models.linear().SerializeToString())
    (tmp_path / "example").write_bytes(content)
    with pytest.raises(InvalidArgument) as caught:
        try_requests(session, tmp_path / "example")
    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", "example")


@pytest.mark.parametrize("array", [np.zeros((1, 5), np.float32), np.array([["a"] * 4])])
def test_an_example_that_the_model_refuses_is_named(tmp_path: Path, array: npt.NDArray[Any]) -> None:
    session = ort.InferenceSession(onnx_models.linear().SerializeToString())
    (tmp_path / "example").write_bytes(npz(x=array))
    with pytest.raises(InvalidArgument) as caught:
        try_requests(session, tmp_path / "example")
    assert caught.value.field == "example"


def test_the_only_axis_of_a_fixed_input_is_no_batch() -> None:
    vector = onnx_models.model(
        [helper.make_node("Identity", ["x"], ["y"])], [onnx_models.tensor("x", [5])], [onnx_models.tensor("y", [5])]
    )
    for proto, size, remark in (
        (vector, 1, "the model's inputs have fixed shapes"),
        (onnx_models.linear(batch=2), 2, "the model has the fixed batch size 2"),
    ):
        sizes, remarks = try_requests(ort.InferenceSession(proto.SerializeToString()), None)
        assert sizes == (size,)
        assert remarks[0].startswith(remark)
