"""A trained model as ONNX files: exported, checked against the model, quantised and measured.

The graph takes exactly what the encoders give, with a dynamic batch and, for repeated fields, a dynamic number of
values. Bytes are as equal as the tools allow: what the exporter notes about source lines and paths is removed. Int8 is
static QDQ of products with weights and of what is fused with them, unsigned activations and signed weights per channel,
of 7 bits: two of their products fit 16 bits, so they saturate on no processor (docs/decisions/0012). Whether it is
faster for this model is measured, not believed.
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

Batch = Mapping[str, npt.NDArray[Any]]
"""Encoded inputs by name, first axis the batch."""

_QUANTISED = ("Conv", "Gemm", "MatMul", "Relu", "MaxPool")
"""Where the time goes, and what passes its 8 bits on. More costs answers: an attention mask of -3e38 leaves no bit for
the scores beside it."""
OUTPUT = "output"
"""Name of the graph's output."""
ABSOLUTE_TOLERANCE = 1e-3
RELATIVE_TOLERANCE = 1e-3


def export_onnx(model: nn.Module, example: Mapping[str, Tensor], repeated: Sequence[str], path: Path) -> None:
    """Writes a model as ONNX.

    Args:
        model: In evaluation mode, weights float32, on the CPU; its forward takes the example's keys.
        example: A batch of at least two samples, with at least two values of every repeated input.
        repeated: Inputs whose second axis is a list of any length; all are equally long.
        path: File to write.

    Raises:
        FailedPrecondition: EXPORT_UNSUPPORTED if the model cannot be written as ONNX, EXPORT_DIFFERS if ONNX Runtime
            computes something else than the model.
    """
    batch, values = torch.export.Dim("batch"), torch.export.Dim("values")
    shapes = {name: {0: batch, **({1: values} if name in repeated else {})} for name in example}
    with warnings.catch_warnings():
        # The exporter's own affairs: deprecations inside torch, and axis names that are one and the same.
        warnings.filterwarnings("ignore", "`isinstance\\(treespec, LeafSpec\\)`", FutureWarning)
        warnings.filterwarnings("ignore", "# The axis name", UserWarning)
        try:
            program = torch.onnx.export(
                model,
                kwargs=dict(example),
                input_names=list(example),
                output_names=[OUTPUT],
                dynamic_shapes=shapes,
                dynamo=True,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            message = f"the model cannot be written as ONNX: {str(error)[:2000]}"
            raise FailedPrecondition("EXPORT_UNSUPPORTED", message) from error
    assert program is not None
    proto = program.model_proto
    _strip(proto)
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))
    _check_against(model, example, path)


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
        optimised: Let the runtime fuse operators, as a server does; without that, 8-bit tensors are multiplied as
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


def _check_against(model: nn.Module, example: Mapping[str, Tensor], path: Path) -> None:
    """Compares file and model on the example and on its first sample alone."""
    session = open_session(path)
    for batch in (example, {name: tensor[:1] for name, tensor in example.items()}):
        with torch.inference_mode():
            expected = model(**batch).float().numpy()
        (found,) = session.run(None, {name: tensor.numpy() for name, tensor in batch.items()})
        if not np.allclose(found, expected, atol=ABSOLUTE_TOLERANCE, rtol=RELATIVE_TOLERANCE):
            gap = float(np.max(np.abs(found - expected)))
            raise FailedPrecondition("EXPORT_DIFFERS", f"the exported graph is off by {gap:.2g}; it is not registered")


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
