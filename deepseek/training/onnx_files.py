"""A trained model as ONNX files: exported, checked against the model, quantised and measured.

The graph takes exactly what the encoders give, with a dynamic batch and, for repeated fields, a dynamic number of
values. Bytes are as equal as the tools allow: what the exporter notes about source lines and paths is removed. Int8 is
static QDQ of products with weights and of the operators fused with them, with unsigned activations and signed 7-bit
weights per channel: the sum of two products fits 16 bits, so it saturates on no processor (docs/decisions/0012).
Whether int8 is faster for this model is measured.
"""

import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from torch import Tensor, nn

from common.errors import FailedPrecondition
from deepseek.training import modules
from deepseek.training.tracing import Outputs, trace, unsupported

Batch = Mapping[str, npt.NDArray[Any]]
"""Encoded inputs by name, first axis the batch."""

_QUANTISED = ("Conv", "Gemm", "MatMul", "Relu", "MaxPool")
"""The operators that take most of the time, and those that pass 8 bits on. Quantising more loses accuracy: an attention
mask of -3e38 leaves no bits for the scores."""
ABSOLUTE_TOLERANCE = 1e-3
RELATIVE_TOLERANCE = 1e-3


def export_onnx(model: nn.Module, example: Mapping[str, Tensor], repeated: Sequence[str], path: Path) -> Outputs:
    """Writes a model as ONNX.

    Args:
        model: In evaluation mode, with float32 weights, on the CPU; its forward takes the example's keys and returns
            tensors in any nesting of lists, tuples, dicts and dataclasses.
        example: A batch of at least two samples, with at least two values of every repeated input.
        repeated: Inputs whose second axis is a list of any length; all are equally long.
        path: File to write.

    Returns:
        The names and the form of the graph's outputs.

    Raises:
        FailedPrecondition: EXPORT_UNSUPPORTED if the model cannot be written as ONNX, EXPORT_DIFFERS if ONNX Runtime
            computes something else than the model.
    """
    program, outputs = trace(model, example, repeated)
    with warnings.catch_warnings():
        # The exporter's own affairs: deprecations inside torch, and axis names that are one and the same.
        warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)`", FutureWarning)
        warnings.filterwarnings("ignore", "# The axis name", UserWarning)
        try:
            written = torch.onnx.export(
                program, input_names=list(example), output_names=outputs.names, dynamo=True, verbose=False
            )
        except torch.onnx.OnnxExporterError as error:
            raise unsupported(str(_cause(error))) from error
    assert written is not None
    proto = written.model_proto
    _strip(proto)
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    _check_against(model, example, path)
    return outputs


def quantise(path: Path, calibration: Sequence[Batch], quantised: Path) -> None:
    """Writes an int8 variant of an ONNX file.

    Args:
        path: The float32 file.
        calibration: Batches of real training samples; activation ranges come from them.
        quantised: File to write.
    """
    prepared = quantised.with_suffix(".prepared.onnx")
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(quantised),
        _Calibration(calibration),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
        op_types_to_quantize=list(_QUANTISED),
        extra_options={"MatMulConstBOnly": True},
    )
    prepared.unlink()
    proto = onnx.load(quantised)
    _strip(proto)
    onnx.checker.check_model(proto)
    quantised.write_bytes(proto.SerializeToString(deterministic=True))


def open_session(path: Path, *, optimised: bool = True) -> ort.InferenceSession:
    """A session as models are served: one thread, no spinning.

    Args:
        path: An ONNX file.
        optimised: Whether the runtime fuses operators, as on a server. Otherwise 8-bit tensors are multiplied as
            float32, which gives the same answers on every processor.
    """
    levels = ort.GraphOptimizationLevel
    options = ort.SessionOptions()
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimised else levels.ORT_DISABLE_ALL
    options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
    options.intra_op_num_threads = 1
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def shape_of(node: onnx.ValueInfoProto) -> tuple[int, ...]:
    """The shape of a graph's input or output, -1 where a dimension varies."""
    return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in node.type.tensor_type.shape.dim)


def median_latencies_ms(
    sessions: Sequence[ort.InferenceSession], requests: Sequence[Batch], *, num_rounds: int = 300
) -> list[float]:
    """Times sessions on the same requests in turn, so that whatever disturbs the machine disturbs all alike.

    Args:
        sessions: What to compare.
        requests: Batches of one sample.
        num_rounds: How often each session is timed, after a tenth of that for warming up.

    Returns:
        The median time of a request for each session, milliseconds.
    """
    times: list[list[float]] = [[] for _ in sessions]
    for turn in range(num_rounds + num_rounds // 10):
        request = dict(requests[turn % len(requests)])
        for session, taken in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run(None, request)
            if turn >= num_rounds // 10:
                taken.append(time.perf_counter() - start)
    return [1000 * median(taken) for taken in times]


class _Calibration(CalibrationDataReader):  # type: ignore[misc]  # the package has no types
    """Feeds batches to the calibrator, once."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches: Iterator[Batch] = iter(batches)

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        batch = next(self._batches, None)
        return None if batch is None else dict(batch)


def _cause(error: BaseException) -> BaseException:
    """The root cause of a chain of errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _check_against(model: nn.Module, example: Mapping[str, Tensor], path: Path) -> None:
    """Compares file and model on the example and on its first sample alone."""
    session = open_session(path)
    for batch in (example, {name: tensor[:1] for name, tensor in example.items()}):
        with torch.inference_mode():
            expected = modules.named_tensors(model(**batch))
        found = session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})
        for (name, tensor), array in zip(expected, found, strict=True):
            if array.shape != tensor.shape:
                what = f"{name} is {list(array.shape)} in the exported graph, {list(tensor.shape)} in the model"
                raise FailedPrecondition("EXPORT_DIFFERS", f"{what}; it is not registered")
            gaps = np.abs(array.astype(np.float64) - tensor.double().numpy())
            if not np.all(gaps <= ABSOLUTE_TOLERANCE + RELATIVE_TOLERANCE * np.abs(tensor.double().numpy())):
                what = f"{name} of the exported graph is off by {float(np.max(gaps)):.2g}"
                raise FailedPrecondition("EXPORT_DIFFERS", f"{what}; it is not registered")


def _strip(proto: onnx.ModelProto) -> None:
    """Removes what names this machine's files and versions' moods: source lines, paths, documentation."""
    del proto.metadata_props[:]
    proto.doc_string = ""
    for graph in (proto.graph, *proto.functions):
        del graph.metadata_props[:]
        graph.doc_string = ""
        for item in (*graph.node, *graph.value_info):
            del item.metadata_props[:]
            item.doc_string = ""
    for tensor in (*proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del tensor.metadata_props[:]
        tensor.doc_string = ""
