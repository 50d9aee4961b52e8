"""The declarations of a file, read without ONNX's own packages."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from services.inference.onnx_file import names_without_shape
from tests.services.inference.models import build, question_model, scale_model, tensor, unchecked


def read(folder: Path, data: bytes) -> frozenset[str]:
    path = folder / "model.onnx"
    path.write_bytes(data)
    return names_without_shape(path)


def test_only_what_declares_no_shape_is_named(tmp_path: Path) -> None:
    names = {"none": None, "scalar": [], "vector": ["n"], "größe": None}
    inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in names.items()]
    nodes = [helper.make_node("Sum", list(names), ["sum"])]
    weight = helper.make_tensor("weight", TensorProto.FLOAT, [1000], [0.0] * 1000)
    outputs = [helper.make_tensor_value_info("sum", TensorProto.FLOAT, None)]
    assert read(tmp_path, unchecked(nodes, inputs, outputs, [weight])) == {"none", "größe", "sum"}
    assert read(tmp_path, scale_model(2.0)) == read(tmp_path, question_model()) == frozenset()


def test_values_that_are_no_tensors_have_no_shape_to_declare(tmp_path: Path) -> None:
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    nodes = [helper.make_node("SequenceConstruct", ["x"], ["y"])]
    model = build(nodes, [tensor("x", TensorProto.FLOAT, ["n"])], [helper.make_value_info("y", kind)])
    assert read(tmp_path, model) == frozenset()


@pytest.mark.parametrize("data", [b"\xff" * 20, b"\x3a", b"\x0b", b"\x3a\x02\x5a\xff"], ids=repr)
def test_what_is_no_protobuf_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ValueError, match=r"varint|message"):
        read(tmp_path, data)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(min_size=1), at=st.integers(0, 60))
def test_any_bytes_are_read_or_refused(tmp_path: Path, data: bytes, at: int) -> None:
    model = scale_model(2.0)
    for hostile in (data, model[:at] + data + model[at:]):
        try:
            read(tmp_path, hostile)
        except ValueError:
            continue
