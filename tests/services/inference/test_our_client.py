"""Our own client of the protocol: the tensors that it accepts and returns."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from onnx import TensorProto

from common.errors import InvalidArgument
from deepseek.client import Mesh, MeshFile, ServiceAddress
from deepseek.client.inference import Inference
from tests.services.inference.conftest import InferenceServer
from tests.services.inference.models import Publisher, identity_model, scale_model


@pytest.fixture
def inference(served: InferenceServer, publisher: Publisher) -> Iterator[Inference]:
    """A client of a server that has `double`, `text` and `count` loaded."""
    publisher.publish("double", scale_model(2.0))
    publisher.publish("text", identity_model(TensorProto.STRING))
    publisher.publish("count", identity_model(TensorProto.INT64))
    with Mesh(MeshFile({"inference": ServiceAddress(served.address)})) as mesh:
        for model in ("double", "text", "count"):
            mesh.inference.load(model)
        yield mesh.inference


def test_inputs_may_be_arrays_tensors_or_lists(inference: Inference) -> None:
    rows = np.array([[1.0, 2.0, 3.0]], np.float32)
    for given in (rows, rows.astype(">f4"), torch.from_numpy(rows).requires_grad_(), np.asfortranarray(rows)):
        assert inference.infer("double", {"x": given})["y"].tolist() == [[2.0, 4.0, 6.0]]
    assert inference.infer("count", {"x": [1, 2]})["y"].tolist() == [1, 2]
    assert inference.infer("count", {"x": torch.tensor([1, 2])})["y"].tolist() == [1, 2]


@pytest.mark.parametrize(
    "given",
    [["größe", ""], np.array(["größe", ""]), np.array(["größe", b""], np.object_), ["größe".encode(), b""]],
    ids=repr,
)
def test_texts_travel_as_bytes(inference: Inference, given: Any) -> None:
    answer = inference.infer("text", {"x": given})["y"]
    assert (answer.dtype, answer.tolist()) == (np.dtype(np.object_), ["größe".encode(), b""])


def test_no_texts_are_an_empty_array(inference: Inference) -> None:
    assert inference.infer("text", {"x": np.array([], np.object_)})["y"].shape == (0,)


@pytest.mark.parametrize(
    "given",
    [None, [None], [[1], [1, 2]], np.array([1j]), torch.ones(1, dtype=torch.bfloat16), np.array(["a", 1], np.object_)],
    ids=repr,
)
def test_what_the_protocol_cannot_carry_is_refused_with_its_field(inference: Inference, given: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        inference.infer("count", {"x": given})
    assert (caught.value.reason, caught.value.field) == ("BAD_INPUT", "inputs[x]")
