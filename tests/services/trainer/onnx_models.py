"""ONNX models as other programs write them, and what hostile ones look like."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

RATES = np.array([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5], [0.3, 0.3]], np.float32)


def tensor(name: str, shape: Sequence[int | str | None], datatype: int = TensorProto.FLOAT) -> onnx.ValueInfoProto:
    """Declares an input or output."""
    return helper.make_tensor_value_info(name, datatype, list(shape))


def model(
    nodes: Sequence[onnx.NodeProto],
    inputs: Sequence[onnx.ValueInfoProto],
    outputs: Sequence[onnx.ValueInfoProto],
    constants: Sequence[onnx.TensorProto] = (),
    *,
    opset: int = 17,
) -> onnx.ModelProto:
    """A model."""
    graph = helper.make_graph(list(nodes), "test", list(inputs), list(outputs), list(constants))
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("ai.onnx.ml", 3)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="tests", producer_version="1")
    helper.set_model_props(made, {"license": "MIT"})
    return made


def linear(batch: int | str | None = "N") -> onnx.ModelProto:
    """y = x @ RATES, for x of FP32 [batch, 4]."""
    return model(
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        [tensor("x", [batch, 4])],
        [tensor("y", [batch, 2])],
        [onnx.numpy_helper.from_array(RATES, "w")],
    )


def classifier() -> onnx.ModelProto:
    """What skl2onnx writes: the probabilities are a list of maps, made by a ZipMap."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probabilities"]),
        helper.make_node("ArgMax", ["probabilities"], ["label"], axis=1, keepdims=0),
        helper.make_node(
            "ZipMap", ["probabilities"], ["by_class"], domain="ai.onnx.ml", classlabels_strings=["no", "yes"]
        ),
    ]
    maps = onnx.ValueInfoProto(name="by_class")
    entry = maps.type.sequence_type.elem_type.map_type
    entry.key_type = TensorProto.STRING
    entry.value_type.tensor_type.elem_type = TensorProto.FLOAT
    outputs = [tensor("label", [None], TensorProto.INT64), maps]
    return model(nodes, [tensor("x", [None, 4])], outputs, [onnx.numpy_helper.from_array(RATES, "w")])


def recurrent() -> onnx.ModelProto:
    """A model whose state has the batch as its second axis, as silero-vad's has."""
    nodes = [
        helper.make_node("ReduceMean", ["x"], ["mean"], axes=[1], keepdims=1),
        helper.make_node("Add", ["state", "mean"], ["next"]),
    ]
    return model(nodes, [tensor("x", [None, None]), tensor("state", [2, None, 1])], [tensor("next", [2, None, 1])])


def with_external_data(folder: Path, location: str = "weights.bin") -> Path:
    """Writes `linear` with its weight in another file, which the model says is at `location`."""
    made = linear()
    (weight,) = made.graph.initializer
    (folder / "weights.bin").write_bytes(weight.raw_data)
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value=location)
    weight.external_data.add(key="length", value=str(RATES.nbytes))
    return write(folder / "external.onnx", made)


def huge() -> onnx.ModelProto:
    """A small file whose graph makes a terabyte of zeros."""
    shape = onnx.numpy_helper.from_array(np.array([1 << 40], np.int64), "shape")
    nodes = [helper.make_node("ConstantOfShape", ["shape"], ["zeros"]), helper.make_node("Add", ["zeros", "x"], ["y"])]
    return model(nodes, [tensor("x", [1])], [tensor("y", [None])], [shape])


def endless() -> onnx.ModelProto:
    """A model whose loop never ends."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["still"]), helper.make_node("Identity", ["v"], ["w"])],
        "body",
        [tensor("i", [], TensorProto.INT64), tensor("go", [], TensorProto.BOOL), tensor("v", [1])],
        [tensor("still", [], TensorProto.BOOL), tensor("w", [1])],
    )
    yes = onnx.numpy_helper.from_array(np.array(True), "yes")
    return model(
        [helper.make_node("Loop", ["", "yes", "x"], ["y"], body=body)], [tensor("x", [1])], [tensor("y", [1])], [yes]
    )


def write(path: Path, made: onnx.ModelProto) -> Path:
    """Writes a model without any check."""
    path.write_bytes(made.SerializeToString())
    return path
