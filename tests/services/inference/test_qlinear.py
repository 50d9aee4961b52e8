from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from onnxruntime.quantization import QuantFormat

from common.errors import FailedPrecondition
from services.inference.engine import Engine
from services.inference.onnx_file import PRODUCTS
from services.inference.qlinear import expanded_model
from tests.services.inference.models import build, tensor
from tests.services.inference.quantized import OLD, convolutional, network, pixels, quantized


def file_of(model: bytes, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model)
    return path


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("make", [network, convolutional])
def test_it_computes_what_onnx_defines(make: Callable[[], bytes], per_channel: bool, tmp_path: Path) -> None:
    options = {**OLD, "per_channel": per_channel, "op_types_to_quantize": ["MatMul", "Conv"]}
    path = file_of(quantized(make(), options, QuantFormat.QOperator), tmp_path)
    assert any(name in path.read_bytes() for name in PRODUCTS)
    ((_, found),) = Engine(path, "plain").run({"pixels": pixels(3)[:, 0]})
    (expected,) = ReferenceEvaluator(str(path)).run(None, {"pixels": pixels(3)[:, 0]})
    # Where a value lies between two of 256 steps, rounding may go either way.
    assert np.abs(found - expected).max() <= 2 * expected.std() / 50
    assert np.mean(np.abs(found - expected) > 1e-5 * expected.std()) < 0.05


def test_it_reaches_operators_in_branches(tmp_path: Path) -> None:
    model = onnx.load_from_string(quantized(network(), {**OLD, "per_channel": False}, QuantFormat.QOperator))
    inner = helper.make_graph(model.graph.node, "inner", [], model.graph.output, model.graph.initializer)
    node = helper.make_node("If", ["yes"], ["scores"], then_branch=inner, else_branch=inner)
    yes = helper.make_tensor("yes", TensorProto.BOOL, [], [True])
    graph = helper.make_graph(
        [node], "outer", model.graph.input, [tensor("scores", TensorProto.FLOAT, ["n", 10])], [yes]
    )
    outer = helper.make_model(graph, opset_imports=model.opset_import, ir_version=10)
    straight = Engine(file_of(model.SerializeToString(), tmp_path), "plain").run({"pixels": pixels(3)[:, 0]})
    branched = Engine(file_of(outer.SerializeToString(), tmp_path), "plain").run({"pixels": pixels(3)[:, 0]})
    np.testing.assert_array_equal(straight[0][1], branched[0][1])


def test_scales_of_any_rank_are_taken_and_names_are_no_operators(tmp_path: Path) -> None:
    """A scale per column of a stack of matrices, which ONNX allows and DequantizeLinear does not."""
    random = np.random.default_rng(0)
    scales = {"b": random.uniform(0.01, 0.02, (2, 1, 10)), "one": np.array(0.02)}
    constants = {f"{name}_scale": scale.astype(np.float32) for name, scale in scales.items()}
    constants |= {"b": random.integers(-127, 128, (2, 64, 10)).astype(np.int8), "middle": np.uint8(128)}
    constants |= {"b_zero": np.zeros((2, 1, 10), np.int8)}
    nodes = [
        helper.make_node(
            "QLinearMatMul",
            ["x", "one_scale", "middle", "b", "b_scale", "b_zero", "one_scale", "middle"],
            ["QLinearMatMul_0_out"],
        ),
        helper.make_node("DequantizeLinear", ["QLinearMatMul_0_out", "one_scale", "middle"], ["y"]),
    ]
    ends = [tensor("x", TensorProto.UINT8, [2, 3, 64]), tensor("y", TensorProto.FLOAT, [2, 3, 10])]
    initializers = [numpy_helper.from_array(np.asarray(array), name) for name, array in constants.items()]
    path = file_of(build(nodes, ends[:1], ends[1:], initializers), tmp_path)
    x = random.integers(100, 156, (2, 3, 64)).astype(np.uint8)
    ((_, found),) = Engine(path, "plain").run({"x": x})
    expected = ((x - 128.0) * 0.02) @ (constants["b"] * scales["b"])
    np.testing.assert_allclose(found, expected.clip(-2.56, 2.54), atol=0.0101)


def test_what_is_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="not a valid ONNX file"):
        expanded_model(file_of(b"QLinearConv", tmp_path))
