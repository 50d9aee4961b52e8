"""A small network, its files in float32 and 8 bits, and the manifests of versions that hold them.

The weights are such that 8-bit products saturate on processors that add two of them in 16 bits: neighbours are alike
and large. `OLD` are the options with which versions were quantized before weights had 7 bits.
"""

import hashlib
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from deepseek.models.datatypes import DTYPES
from deepseek.models.manifest import ONNX_MEDIA_TYPE, Measurement, ModelFile, ModelManifest, TensorSpec
from deepseek.models.probes import MEDIA_TYPE, Array, Probes
from services.inference.engine import Engine, Mode
from tests.services.inference.models import build, tensor

NUM_PIXELS, NUM_CLASSES = 64, 10
OLD = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8, "per_channel": True}
NEW = {**OLD, "reduce_range": True}


@dataclass(frozen=True)
class Unit:
    """How a pixel is given to the network.

    Attributes:
        datatype: The protocol's name of its type.
        size: What a pixel of 1 is in it.
    """

    datatype: str = "UINT8"
    size: int = 1

    def of(self, values: Array) -> Array:
        """Pixels of 0 to 255 in it."""
        return (values.astype(np.int64) * self.size).astype(DTYPES[self.datatype])


PIXELS = Unit()
UNITS = (PIXELS, Unit("FP32"), Unit("INT16", 128))


def network(unit: Unit = PIXELS) -> bytes:
    """Class scores FP32 [n, 10] of pixels [n, 64]."""
    random = np.random.default_rng(0)
    # Pairs of inputs have about equal weights, as neighbouring pixels have.
    first = np.repeat(random.uniform(-1, 1, (NUM_PIXELS // 2, 128)), 2, axis=0)
    second = np.repeat(random.uniform(-1, 1, (64, NUM_CLASSES)), 2, axis=0)
    constants = [
        numpy_helper.from_array(np.float32(1 / 255 / unit.size), "scale"),
        numpy_helper.from_array(first.astype(np.float32), "first"),
        numpy_helper.from_array(second.astype(np.float32), "second"),
    ]
    nodes = [
        helper.make_node("Cast", ["pixels"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["cast", "scale"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "first"], ["seen"]),
        helper.make_node("Relu", ["seen"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "second"], ["scores"]),
    ]
    inputs = [tensor("pixels", helper.np_dtype_to_tensor_dtype(DTYPES[unit.datatype]), ["n", NUM_PIXELS])]
    return build(nodes, inputs, [tensor("scores", TensorProto.FLOAT, ["n", NUM_CLASSES])], constants)


def pixels(seed: int, num_samples: int = 64) -> Array:
    """Pictures of 64 pixels, neighbours alike, UINT8 [n, 1, 64]: a request each."""
    return np.repeat(np.random.default_rng(seed).integers(0, 256, (num_samples, 1, NUM_PIXELS // 2)), 2, -1).astype(
        np.uint8
    )


class _Calibration(CalibrationDataReader):  # type: ignore[misc]  # the package has no types
    def __init__(self, unit: Unit) -> None:
        self._batches = iter([{"pixels": unit.of(pixels(1)[:, 0])}])

    def get_next(self) -> dict[str, Array] | None:
        return next(self._batches, None)


def quantized(
    model: bytes, options: Mapping[str, Any], quant_format: QuantFormat = QuantFormat.QDQ, unit: Unit = PIXELS
) -> bytes:
    """The model in 8 bits."""

    def quantize(prepared: str, made: str) -> None:
        quantize_static(prepared, made, _Calibration(unit), quant_format=quant_format, **options)

    return _made(model, quantize)


def operators(*, per_channel: bool = False) -> bytes:
    """The network with QLinearMatMul in place of QDQ."""
    return quantized(network(), {**OLD, "per_channel": per_channel}, QuantFormat.QOperator)


def convolutional() -> bytes:
    """Class scores FP32 [n, 10, 1, 1] of UINT8 [n, 64], by two convolutions with biases."""
    random = np.random.default_rng(0)
    first = np.repeat(random.uniform(-1, 1, (16, 1, 3, 1)), 3, axis=3)
    second = np.repeat(random.uniform(-1, 1, (NUM_CLASSES, 8, 8, 8)), 2, axis=1)
    constants = [
        numpy_helper.from_array(np.array([-1, 1, 8, 8], np.int64), "shape"),
        numpy_helper.from_array(np.float32(1 / 255), "scale"),
        numpy_helper.from_array(first.astype(np.float32), "first"),
        numpy_helper.from_array(second.astype(np.float32), "second"),
        numpy_helper.from_array(random.uniform(-1, 1, 16).astype(np.float32), "first_bias"),
        numpy_helper.from_array(random.uniform(-1, 1, NUM_CLASSES).astype(np.float32), "second_bias"),
    ]
    nodes = [
        helper.make_node("Cast", ["pixels"], ["cast"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["cast", "scale"], ["scaled"]),
        helper.make_node("Reshape", ["scaled", "shape"], ["picture"]),
        helper.make_node("Conv", ["picture", "first", "first_bias"], ["seen"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["seen"], ["hidden"]),
        helper.make_node("Conv", ["hidden", "second", "second_bias"], ["scores"]),
    ]
    inputs = [tensor("pixels", TensorProto.UINT8, ["n", NUM_PIXELS])]
    return build(nodes, inputs, [tensor("scores", TensorProto.FLOAT, ["n", NUM_CLASSES, 1, 1])], constants)


def dynamic() -> bytes:
    """The network with MatMulInteger, quantized without calibration."""
    return _made(network(), lambda prepared, made: quantize_dynamic(prepared, made, weight_type=QuantType.QInt8))


def quantized_gemm() -> bytes:
    """Class scores by one QGemm, an operator of ONNX Runtime."""
    weights = np.repeat(np.random.default_rng(0).integers(-127, 128, (NUM_PIXELS // 2, NUM_CLASSES)), 2, axis=0)
    constants = [
        numpy_helper.from_array(array, name)
        for name, array in {
            "one": np.float32(1 / 255),
            "low": np.uint8(0),
            "weights": weights.astype(np.int8),
            "zero": np.int8(0),
            "bias": np.zeros(NUM_CLASSES, np.int32),
        }.items()
    ]
    inputs = ["pixels", "one", "low", "weights", "one", "zero", "bias"]
    node = helper.make_node("QGemm", inputs, ["scores"], domain="com.microsoft", transA=0, transB=0, alpha=1.0)
    ends = [
        tensor("pixels", TensorProto.UINT8, ["n", NUM_PIXELS]),
        tensor("scores", TensorProto.FLOAT, ["n", NUM_CLASSES]),
    ]
    graph = helper.make_graph([node], "test", ends[:1], ends[1:], constants)
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]
    data: bytes = helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString()
    return data


def _made(model: bytes, quantize: Callable[[str, str], None]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        plain, prepared, made = (str(Path(folder, name)) for name in ("plain.onnx", "prepared.onnx", "made.onnx"))
        Path(plain).write_bytes(model)
        quant_pre_process(plain, prepared, skip_symbolic_shape=True)
        quantize(prepared, made)
        proto = onnx.load(made)
    data: bytes = proto.SerializeToString(deterministic=True)
    return data


def probes_of(model: bytes, unit: Unit = PIXELS) -> Probes:
    """Probes with the network's answers, not optimized."""
    return answered(model, {"pixels": unit.of(pixels(2))})


def answered(model: bytes, requests: Mapping[str, Array]) -> Probes:
    """Requests with a model's answers, not optimized."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    count = len(next(iter(requests.values())))
    answers = [session.run(None, {name: array[i] for name, array in requests.items()})[0] for i in range(count)]
    return Probes(requests, {session.get_outputs()[0].name: np.stack(answers)})


Contents = dict[str, bytes]
"""Files of a version by name."""


def old_version(options: Mapping[str, Any] = OLD, unit: Unit = PIXELS) -> tuple[ModelManifest, Contents]:
    """A version as it was made before there were probes, promoted where it was measured."""
    contents = {"model.onnx": network(unit)}
    contents["model.int8.onnx"] = quantized(contents["model.onnx"], options, unit=unit)
    inputs = (TensorSpec("pixels", unit.datatype, (-1, NUM_PIXELS)),)
    return replace(_manifest(contents), inputs=inputs), contents


def exported_before() -> tuple[ModelManifest, Contents]:
    """A version that 81dc366 exported on a processor with VNNI: the demo's network with a third of its width, trained
    for four epochs. Its 8-bit file is taken for the one that was promoted."""
    folder = Path(__file__).parent / "exported_before"
    manifest = ModelManifest.from_bytes((folder / "manifest.json").read_bytes())
    contents = {file.name: (folder / file.name).read_bytes() for file in manifest.files}
    return replace(manifest, served="model.int8.onnx"), contents


def questions() -> dict[str, Array]:
    """Requests to that version: pictures of patches, and words that it knows."""
    random = np.random.default_rng(4)
    patches = random.integers(0, 256, (32, 1, 4, 4, 3)).astype(np.uint8)
    return {
        "image": patches.repeat(16, axis=2).repeat(16, axis=3),
        "question": random.integers(0, 27, (32, 1, 1, 16)),
    }


def new_version(
    options: Mapping[str, Any] = NEW, *, disagreement: float = 0.0, loss: float = 0.0
) -> tuple[ModelManifest, Contents]:
    """A version with probes; what its 8-bit file lost where it was exported is made up."""
    _, contents = old_version(options)
    contents["probes.npz"] = probes_of(contents["model.onnx"]).to_bytes()
    measured = (
        Measurement("fp32", 2.0, "accuracy", 0.9, 0.0, 0.0, "avx512_vnni"),
        Measurement("int8", 1.0, "accuracy", 0.9 - loss, loss, disagreement, "avx512_vnni"),
    )
    with_probes = replace(_manifest(contents), measurements=measured, accepted_loss=0.005, probes="probes.npz")
    return with_probes, contents


def _manifest(contents: Contents) -> ModelManifest:
    kinds = {
        "model.onnx": ("fp32", ONNX_MEDIA_TYPE),
        "model.int8.onnx": ("int8", ONNX_MEDIA_TYPE),
        "probes.npz": ("probes", MEDIA_TYPE),
    }
    return ModelManifest(
        model="test",
        run="runs/test",
        dataset_version="datasets/test/versions/1",
        files=tuple(
            ModelFile(name, kinds[name][0], hashlib.sha256(data).hexdigest(), len(data), kinds[name][1])
            for name, data in contents.items()
        ),
        served="model.int8.onnx",
        inputs=(TensorSpec("pixels", "UINT8", (-1, NUM_PIXELS)),),
        outputs=(TensorSpec("scores", "FP32", (-1, NUM_CLASSES), labels=tuple(map(str, range(NUM_CLASSES)))),),
    )


def paced(delays_s: Mapping[str, float]) -> Callable[[Path, Mode], Engine]:
    """Opens engines that take longer to answer, by a part of their file's path: speed must not be left to chance.

    The cache names files by their digests.
    """

    class Paced(Engine):
        def __init__(self, path: Path, mode: Mode = "fast") -> None:
            super().__init__(path, mode)
            self._delay_s = next((delay_s for part, delay_s in delays_s.items() if part in path.name), 0.0)

        def run(self, arrays: Any, outputs: Any = ()) -> Any:
            end = time.perf_counter() + self._delay_s
            while time.perf_counter() < end:
                pass
            return super().run(arrays, outputs)

    return Paced
