"""QLinearConv and QLinearMatMul written as ONNX defines them: dequantised, computed in float32, quantised again.

On processors that add two 8-bit products in 16 bits, ONNX Runtime's kernels for these operators saturate in each of its
modes. Written out and not optimised, the same file is right everywhere, and tells whether they do.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

import onnx
from onnx import GraphProto, NodeProto, helper

from common.errors import FailedPrecondition
from services.inference.onnx_file import PRODUCTS

_RUNTIME = "com.microsoft"
"""Domain of the runtime's own operators. Its (De)QuantizeLinear takes an axis and any integers at any opset."""


def written_out(path: Path) -> bytes:
    """Returns the model of a file without such operators.

    Raises:
        FailedPrecondition: MODEL_BROKEN if the file holds such an operator of another domain, or no model.
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError is of one of two implementations
        raise FailedPrecondition("MODEL_BROKEN", f"the model is no valid ONNX file: {error}") from error
    _write_out(model.graph)
    if any(name in data for data in (model.SerializeToString(),) for name in PRODUCTS):
        message = "its QLinear operators are the runtime's own and cannot be written as float32; use the QDQ format"
        raise FailedPrecondition("MODEL_BROKEN", message)
    if all(opset.domain != _RUNTIME for opset in model.opset_import):
        model.opset_import.append(helper.make_opsetid(_RUNTIME, 1))
    data: bytes = model.SerializeToString()
    return data


def _write_out(graph: GraphProto) -> None:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _write_out(attribute.g)
    nodes = [written for node in graph.node for written in _nodes(node)]
    del graph.node[:]
    graph.node.extend(nodes)


def _nodes(node: NodeProto) -> Iterable[NodeProto]:
    if node.domain or node.op_type not in ("QLinearConv", "QLinearMatMul"):
        return [node]
    return _convolution(node) if node.op_type == "QLinearConv" else _matrix_product(node)


def _convolution(node: NodeProto) -> Iterator[NodeProto]:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, *bias = node.input
    unique = node.output[0]
    inputs = [f"{unique}/x", f"{unique}/w"]
    yield _dequantise([x, x_scale, x_zero], inputs[0])
    yield _dequantise([w, w_scale, w_zero], inputs[1], axis=0)
    if any(bias):
        inputs.append(f"{unique}/bias")
        yield helper.make_node("Mul", [x_scale, w_scale], [f"{unique}/bias_scale"])
        yield _dequantise([bias[0], f"{unique}/bias_scale"], inputs[2], axis=0)
    product = helper.make_node("Conv", inputs, [f"{unique}/y"])
    product.attribute.extend(node.attribute)
    yield product
    yield _quantise([f"{unique}/y", y_scale, y_zero], unique)


def _matrix_product(node: NodeProto) -> Iterator[NodeProto]:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = node.input
    unique = node.output[0]
    yield _dequantise([a, a_scale, a_zero], f"{unique}/a", axis=-2)
    yield _dequantise([b, b_scale, b_zero], f"{unique}/b", axis=-1)
    yield helper.make_node("MatMul", [f"{unique}/a", f"{unique}/b"], [f"{unique}/y"])
    yield _quantise([f"{unique}/y", y_scale, y_zero], unique)


def _dequantise(inputs: list[str], output: str, axis: int = 0) -> NodeProto:
    """The axis counts where the scale has a value per row, column or channel."""
    return helper.make_node("DequantizeLinear", inputs, [output], domain=_RUNTIME, axis=axis)


def _quantise(inputs: list[str], output: str) -> NodeProto:
    return helper.make_node("QuantizeLinear", inputs, [output], domain=_RUNTIME)
