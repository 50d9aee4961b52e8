"""Writes a trained model as ONNX files: exports, verifies, quantizes and times them.

The graph takes the encoders' outputs unchanged. It accepts any batch size and, if the model does, any number of values
of a repeated field. Source lines and paths are removed, so that files are as reproducible as the tools allow. Int8
files are quantized statically (QDQ). Only products with weights, and operators fused with them, are quantized.
Activations are unsigned 8-bit numbers. Weights are signed 7-bit numbers with a scale per channel, so the sum of two
products fits in 16 bits and does not saturate on any processor (docs/decisions/0012).
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
from deepseek.models.runtime_errors import LOAD_ERRORS, load_message
from deepseek.models.runtime_options import session_options
from deepseek.training import modules
from deepseek.trainjob.onnx_operators import explanation
from deepseek.trainjob.tracing import ABSOLUTE_TOLERANCE, RELATIVE_TOLERANCE, Outputs, trace, unsupported

Batch = Mapping[str, npt.NDArray[Any]]
"""Encoded inputs by name; the first axis is the batch."""

_QUANTIzED = ("Conv", "Gemm", "MatMul", "Relu", "MaxPool")
"""The operators to quantize: those that take most of the time, and those that pass 8-bit values on to them. Quantizing
more operators would reduce accuracy. For example, an attention mask of -3e38 would take up the whole range of the
attention scores, which would leave no bits for the scores themselves.
"""


def export_onnx(model: nn.Module, example: Mapping[str, Tensor], repeated: Sequence[str], path: Path) -> Outputs:
    """Writes a model as ONNX.

    Args:
        model: Model in evaluation mode, with float32 weights, on the CPU; its forward takes the example's keys
            as keyword arguments and returns tensors, which may be nested in lists, tuples, dicts and dataclasses.
        example: A batch of at least two samples, with at least two values of every repeated input.
        repeated: Names of the inputs whose second axis is a list of any length; all lists in a batch are equally long.
        path: File to write.

    Returns:
        The names of the graph's outputs, and their structure in the model's result.

    Raises:
        FailedPrecondition: EXPORT_UNSUPPORTED if the model cannot be written as ONNX; the message names the operator
            and the line of code that are responsible, if they are known. EXPORT_DIFFERS if the outputs of
            ONNX Runtime differ from the model's.
    """
    program, outputs = trace(model, example, repeated)
    convert(model, program, outputs, example, path)
    return outputs


def convert(
    model: nn.Module,
    program: torch.export.ExportedProgram,
    outputs: Outputs,
    example: Mapping[str, Tensor],
    path: Path,
) -> None:
    """Writes the graph of a model as ONNX, and checks the file against the model.

    The arguments and errors are those of `export_onnx`; `program` and `outputs` are results of `trace`.
    """
    with warnings.catch_warnings():
        # Hides internal warnings of the exporter: deprecations inside torch, and axis names that denote the same axis.
        warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)`", FutureWarning)
        warnings.filterwarnings("ignore", "# The axis name", UserWarning)
        try:
            written = torch.onnx.export(
                program, input_names=list(example), output_names=outputs.names, dynamo=True, verbose=False
            )
        except torch.onnx.OnnxExporterError as error:
            raise unsupported(explanation(_cause(error), program)) from error
    assert written is not None
    proto = written.model_proto
    _strip(proto)
    try:
        onnx.checker.check_model(proto, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise unsupported(f"its graph is not valid: {error}") from error
    path.write_bytes(proto.SerializeToString(deterministic=True))
    _check_against(model, example, path)


def quantize(path: Path, calibration: Sequence[Batch], quantized: Path) -> None:
    """Writes an int8 variant of an ONNX file.

    Args:
        path: The float32 file.
        calibration: Batches of real training samples, from which the ranges of the activations are computed.
        quantized: File to write.
    """
    prepared = quantized.with_suffix(".prepared.onnx")
    quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
    quantize_static(
        str(prepared),
        str(quantized),
        _Calibration(calibration),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
        per_channel=True,
        reduce_range=True,
        op_types_to_quantize=list(_QUANTIzED),
        extra_options={"MatMulConstBOnly": True},
    )
    prepared.unlink()
    proto = onnx.load(quantized)
    _strip(proto)
    onnx.checker.check_model(proto)
    quantized.write_bytes(proto.SerializeToString(deterministic=True))


def open_session(path: Path, *, optimized: bool = True) -> ort.InferenceSession:
    """Opens a session with the options that a server uses: one thread, no spinning.

    Args:
        path: An ONNX file.
        optimized: Whether the runtime fuses operators, as it does on a server. If not, 8-bit tensors are multiplied as
            float32, which gives the same outputs on every processor.
    """
    levels = ort.GraphOptimizationLevel
    options = session_options()
    options.graph_optimization_level = levels.ORT_ENABLE_ALL if optimized else levels.ORT_DISABLE_ALL
    return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def shape_of(node: onnx.ValueInfoProto) -> tuple[int, ...]:
    """Returns the shape of a graph's input or output, with -1 for dynamic dimensions."""
    return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in node.type.tensor_type.shape.dim)


def median_latencies_ms(
    sessions: Sequence[ort.InferenceSession], requests: Sequence[Batch], *, num_rounds: int = 300
) -> list[float]:
    """Times sessions on the same requests. The sessions take turns, so that other load affects all of them equally.

    Args:
        sessions: Sessions to compare.
        requests: Requests, each of one sample.
        num_rounds: Number of timed runs per session; a tenth as many warm-up runs come first.

    Returns:
        For each session, the median time of a request, in milliseconds.
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
    """Feeds each batch to the calibrator once."""

    def __init__(self, batches: Sequence[Batch]) -> None:
        self._batches: Iterator[Batch] = iter(batches)

    def get_next(self) -> dict[str, npt.NDArray[Any]] | None:
        batch = next(self._batches, None)
        return None if batch is None else dict(batch)


def _cause(error: BaseException) -> BaseException:
    """Returns the root cause of a chain of errors."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _check_against(model: nn.Module, example: Mapping[str, Tensor], path: Path) -> None:
    """Checks that the file's outputs match the model's, for the whole example and for its first sample alone.

    Raises:
        FailedPrecondition: EXPORT_UNSUPPORTED if ONNX Runtime cannot load the file; EXPORT_DIFFERS.
    """
    try:
        session = open_session(path)
    except LOAD_ERRORS as error:
        raise unsupported(f"ONNX Runtime cannot run it: {load_message(error)}") from error
    for batch in (example, {name: tensor[:1] for name, tensor in example.items()}):
        with torch.inference_mode():
            expected = modules.named_tensors(model(**batch))
        found = session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})
        for (name, tensor), array in zip(expected, found, strict=True):
            if array.shape != tensor.shape:
                what = f"{name} has shape {list(array.shape)} in the ONNX file, but {list(tensor.shape)} in the model"
                raise FailedPrecondition("EXPORT_DIFFERS", f"{what}, so the model is not registered")
            gaps = np.abs(array.astype(np.float64) - tensor.double().numpy())
            if not np.all(gaps <= ABSOLUTE_TOLERANCE + RELATIVE_TOLERANCE * np.abs(tensor.double().numpy())):
                what = f"{name} of the ONNX file differs from the model's by up to {float(np.max(gaps)):.2g}"
                raise FailedPrecondition("EXPORT_DIFFERS", f"{what}, so the model is not registered")


def _strip(proto: onnx.ModelProto) -> None:
    """Removes metadata that differs between machines and versions: source lines, paths and documentation."""
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
