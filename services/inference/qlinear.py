"""Expands QLinearConv and QLinearMatMul into the steps that define them: dequantize, compute in float32, quantize.

On processors that sum pairs of products of 8-bit values in 16 bits, ONNX Runtime's kernels for these operators saturate
in every mode of the engine. An expanded model, if it runs without optimizations, is correct on every processor.
Comparing its outputs with those of the original model shows whether the kernels saturate.
"""

from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import onnx
from onnx import FunctionProto, NodeProto, TensorProto, helper

from common.errors import FailedPrecondition
from services.inference.onnx_file import PRODUCTS

_ONNX = ("", "ai.onnx")
_RUNTIME = "com.microsoft"
"""Domain of the runtime's own operators. Its QuantizeLinear and DequantizeLinear accept an axis and every integer type,
whatever the model's opset."""


def expanded_model(path: Path) -> bytes:
    """Returns the encoded model of a file, with all QLinearConv and QLinearMatMul operators expanded.

    Raises:
        FailedPrecondition: MODEL_BROKEN if the file is not an ONNX model, or contains ONNX Runtime's own variant of one
            of these operators (domain `com.microsoft`).
    """
    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's DecodeError; domain code of a service does not import protobuf
        raise FailedPrecondition("MODEL_BROKEN", f"the model is not a valid ONNX file: {error}") from error
    for body in (model.graph, *model.functions):
        if any(_is_product(node, domains=(*_ONNX, _RUNTIME)) for node in _all_nodes(body)):
            _write_out(body)
            opsets = (body if isinstance(body, FunctionProto) else model).opset_import
            if all(opset.domain != _RUNTIME for opset in opsets):
                opsets.append(helper.make_opsetid(_RUNTIME, 1))
        if any(_is_product(node, domains=(_RUNTIME,)) for node in _all_nodes(body)):
            message = (
                "the model has QLinear operators from the domain com.microsoft, which cannot be expanded to float32; "
                "quantize it in the QDQ format"
            )
            raise FailedPrecondition("MODEL_BROKEN", message)
    data: bytes = model.SerializeToString()
    return data


def _all_nodes(body: Any) -> Iterator[NodeProto]:
    """Yields the nodes of a graph or function, including those inside branches and loops."""
    for node in body.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _all_nodes(attribute.g)


def _is_product(node: NodeProto, domains: Collection[str]) -> bool:
    return node.domain in domains and node.op_type.encode() in PRODUCTS


def _write_out(body: Any) -> None:
    for node in body.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _write_out(attribute.g)
    nodes = [written for node in body.node for written in _nodes(node)]
    del body.node[:]
    body.node.extend(nodes)


def _nodes(node: NodeProto) -> Iterable[NodeProto]:
    if not _is_product(node, domains=_ONNX):
        return [node]
    return _convolution(node) if node.op_type == "QLinearConv" else _matrix_product(node)


def _convolution(node: NodeProto) -> Iterator[NodeProto]:
    x, x_scale, x_zero, w, w_scale, w_zero, y_scale, y_zero, *bias = node.input
    unique = node.output[0]
    inputs = [f"{unique}/x", f"{unique}/w"]
    yield _dequantize([x, x_scale, x_zero], inputs[0])
    yield _dequantize([w, w_scale, w_zero], inputs[1], axis=0)
    if any(bias):
        inputs.append(f"{unique}/bias")
        yield helper.make_node("Mul", [x_scale, w_scale], [f"{unique}/bias_scale"])
        yield _dequantize([bias[0], f"{unique}/bias_scale"], inputs[2], axis=0)
    product = helper.make_node("Conv", inputs, [f"{unique}/y"])
    product.attribute.extend(node.attribute)
    yield product
    yield _quantize([f"{unique}/y", y_scale, y_zero], unique)


def _matrix_product(node: NodeProto) -> Iterator[NodeProto]:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = node.input
    unique = node.output[0]
    yield from _subtract_and_scale(a, a_scale, a_zero, f"{unique}/a")
    yield from _subtract_and_scale(b, b_scale, b_zero, f"{unique}/b")
    yield helper.make_node("MatMul", [f"{unique}/a", f"{unique}/b"], [f"{unique}/y"])
    yield _quantize([f"{unique}/y", y_scale, y_zero], unique)


def _dequantize(inputs: list[str], output: str, axis: int = 0) -> NodeProto:
    """Returns a node that dequantizes a tensor. `axis` matters only if the scale has one value per channel."""
    return helper.make_node("DequantizeLinear", inputs, [output], domain=_RUNTIME, axis=axis)


def _subtract_and_scale(x: str, scale: str, zero: str, output: str) -> Iterator[NodeProto]:
    """Yields nodes that dequantize a matrix.

    The scale is a scalar, has one value per column, or has the same rank as the matrix.
    """
    for number in (x, zero):
        yield helper.make_node("Cast", [number], [f"{output}/{number}"], to=TensorProto.FLOAT)
    yield helper.make_node("Sub", [f"{output}/{x}", f"{output}/{zero}"], [f"{output}/difference"])
    yield helper.make_node("Mul", [f"{output}/difference", scale], [output])


def _quantize(inputs: list[str], output: str) -> NodeProto:
    return helper.make_node("QuantizeLinear", inputs, [output], domain=_RUNTIME)
