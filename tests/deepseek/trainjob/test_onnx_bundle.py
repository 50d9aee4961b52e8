"""External data of imported models, wherever the model holds the tensor."""

from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
from onnx import TensorProto, helper

from common.errors import InvalidArgument
from deepseek.models.onnx_wire import external_locations
from deepseek.trainjob import onnx_bundle
from tests.services.trainer import onnx_models

Attributes = list[onnx.AttributeProto]


def external(location: str) -> onnx.TensorProto:
    tensor = TensorProto(name="t", data_type=TensorProto.UINT8, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def graph(location: str) -> onnx.GraphProto:
    return helper.make_graph([], "g", [], [], [external(location)])


def sparse(location: str) -> onnx.SparseTensorProto:
    return onnx.SparseTensorProto(values=external(location), dims=[4])


ATTRIBUTES: list[Callable[[str], onnx.AttributeProto]] = [
    lambda location: onnx.AttributeProto(name="a", t=external(location)),
    lambda location: onnx.AttributeProto(name="a", tensors=[external(location)]),
    lambda location: onnx.AttributeProto(name="a", g=graph(location)),
    lambda location: onnx.AttributeProto(name="a", graphs=[graph(location)]),
    lambda location: onnx.AttributeProto(name="a", sparse_tensor=sparse(location)),
    lambda location: onnx.AttributeProto(name="a", sparse_tensors=[sparse(location)]),
]


def with_default(attribute: onnx.AttributeProto) -> onnx.ModelProto:
    """A model with a function of which an attribute has a default."""
    made = onnx_models.linear()
    made.functions.add(name="f", domain="own").attribute_proto.append(attribute)
    return made


def with_training(location: str) -> onnx.ModelProto:
    made = onnx_models.linear()
    made.training_info.add(algorithm=graph(location))
    return made


def models(location: str) -> list[onnx.ModelProto]:
    return [*(with_default(make(location)) for make in ATTRIBUTES), with_training(location)]


@pytest.mark.parametrize("index", range(len(ATTRIBUTES) + 1))
def test_external_data_is_found_wherever_it_is(tmp_path: Path, index: int) -> None:
    secret = tmp_path / "secret.bin"
    secret.write_bytes(b"none")
    for location, reason in ((str(secret), "BAD_PATH"), ("../secret.bin", "BAD_PATH"), ("secret.bin", "MISSING_FILE")):
        with pytest.raises(InvalidArgument) as caught:
            onnx_bundle.embed(models(location)[index], {})
        assert caught.value.reason == reason
    made = models("secret.bin")[index]
    assert external_locations(onnx_models.write(tmp_path / "m.onnx", made)) == ["secret.bin"]
    assert onnx_bundle.embed(made, {"secret.bin": secret})
    assert b"secret.bin" not in made.SerializeToString()
    assert b"none" in made.SerializeToString()
