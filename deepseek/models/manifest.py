"""The manifest of a model version: its files, inputs and outputs.

To serve a model, a server needs only the manifest and the files: each input names the encoder (with its learned state)
that converts a user's value to a tensor, and each output names the labels of its last axis. Like the manifest of a data
set, the manifest of a model is an artifact addressed by the digest of its canonical JSON, which contains no URIs or
times. This module does not import torch.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from deepseek.data import canonical_json
from deepseek.data.canonical_json import Node
from deepseek.data.manifest import SHA256
from deepseek.models.batch_size import fixed_batch_size
from deepseek.models.origin import Origin

MEDIA_TYPE = "application/vnd.deepseek.model.v1+json"
"""Media type of a model manifest."""
ONNX_MEDIA_TYPE = "application/vnd.onnx"
"""Media type of an ONNX file."""
WEIGHTS_FILE = "weights.safetensors"
"""Name of the file that holds the trained weights, in the form of a checkpoint. A run can start from them."""
DATATYPES = (
    "BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 BF16 FP32 FP64 BYTES".split()  # noqa: SIM905
)
"""Tensor datatypes of the Open Inference Protocol."""

_FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")  # also safe as a file name
_TENSOR_NAME = re.compile(r"[!-~][ -~]{0,255}")  # models from elsewhere have names such as `serving/input:0`
_MEDIA_TYPE = re.compile(r"[a-z0-9.+-]{1,100}/[a-z0-9.+-]{1,100}")
_MAX_ITEMS = 1024


@dataclass(frozen=True)
class ModelFile:
    """One file of a model version.

    Attributes:
        name: Plain file name, e.g. `model.int8.onnx`.
        variant: Variant of the model, e.g. `fp32` or `int8`.
        sha256: SHA-256 of the file, in lower-case hexadecimal.
        size_bytes: Size of the file in bytes.
        media_type: Media type of the file.
    """

    name: str
    variant: str
    sha256: str
    size_bytes: int
    media_type: str = ONNX_MEDIA_TYPE


@dataclass(frozen=True)
class EncoderSpec:
    """The description from which an encoder can be rebuilt.

    Attributes:
        name: Name of the encoder in the registry `deepseek.encoders`.
        params: Keyword arguments of the encoder.
        state: State learned from the training split.
    """

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of the model.

    Attributes:
        name: Name of the tensor in the model's graph.
        datatype: One of DATATYPES.
        shape: Size of each dimension; -1 means any size.
        encoder: Encoder that converts a value to the tensor; for inputs only.
        field: Field of the data set that the input was trained on; for inputs only.
        labels: Labels of the last axis; for outputs with class scores only.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    encoder: EncoderSpec | None = None
    field: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """The measurements of one variant, made when the model was exported.

    Attributes:
        variant: Variant of the model, as in ModelFile.
        latency_ms: Median time of a request with one sample, in milliseconds.
        metric: Name of the metric, e.g. `accuracy`.
        value: Value of the metric on the evaluation split.
        loss: How much worse `value` is than the float32 file's value; negative if it is better; None if not recorded.
        disagreement: Disagreement with the probes' expected outputs (`deepseek.models.probes.disagreement`); None
            without probes.
        instruction_set: Instruction set of the exporting host's processor, as named by `deepseek.processor`; empty if
            not recorded.
    """

    variant: str
    latency_ms: float
    metric: str
    value: float
    loss: float | None = None
    disagreement: float | None = None
    instruction_set: str = ""


@dataclass(frozen=True)
class RunPrecision:
    """The numeric format in which the model version was trained.

    Attributes:
        precision: `fp32`, `bf16` or `fp16`.
        reason: Why this format was used (`deepseek.training.precision.Reason`).
        ratios: Measured duration of a training step in each format, relative to the fastest format; empty on CUDA.
        instruction_set: Instruction set of rank 0's processor, as named by `deepseek.processor`.
    """

    precision: str
    reason: str
    ratios: Mapping[str, float]
    instruction_set: str


@dataclass(frozen=True)
class ModelManifest:
    """The content of a model version, as stored in its manifest.

    Attributes:
        model: Name of the model in the registry `deepseek.models`; `onnx` for an imported model.
        params: Keyword arguments with which the model was built.
        run: Name of the run that trained the model, `runs/<id>`; empty for an imported model.
        dataset_version: Name of the training data, `datasets/<id>/versions/<n>`; empty for an imported model.
        files: Candidates for serving, and other files that belong to them, such as the probes.
        served: Name of the file that was preferred on the host where the model was exported.
        inputs: Inputs of the graph, in order.
        outputs: Outputs of the graph, in order.
        metrics: Metrics of the trained model on the evaluation split.
        measurements: Measurements of the exported variants.
        accepted_loss: Maximum measured `loss` of a file that may be served. None counts as 0. From this value, a
            server also derives how much greater a file's disagreement with the probes may be on the server than it was
            at export (`Probes.tolerance`).
        probes: Name of the file that holds the probes (`deepseek.models.probes`); empty if there are none.
        precision: Numeric format of the run; None if not recorded.
        origin: Where an imported model comes from; None for a model that was trained here.
    """

    model: str
    run: str
    dataset_version: str
    files: tuple[ModelFile, ...]
    served: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    params: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    measurements: tuple[Measurement, ...] = ()
    accepted_loss: float | None = None
    probes: str = ""
    precision: RunPrecision | None = None
    origin: Origin | None = None

    @property
    def candidates(self) -> tuple[ModelFile, ...]:
        """Files that can be served, each of which holds a different variant of the model."""
        return tuple(file for file in self.files if file.media_type == ONNX_MEDIA_TYPE or file.name == self.served)

    @property
    def weights(self) -> ModelFile | None:
        """The file that holds the trained weights; None if the version has none."""
        return next((file for file in self.files if file.name == WEIGHTS_FILE), None)

    @property
    def fixed_batch_size(self) -> int:
        """Number of samples that every request must have; 0 if any fits. See `fixed_batch_size`."""
        return fixed_batch_size([one.shape for one in self.inputs], [one.shape for one in self.outputs])

    def measurement(self, variant: str) -> Measurement | None:
        """Returns the measurement of a variant; None if the variant was not measured."""
        return next((one for one in self.measurements if one.variant == variant), None)

    def file(self, name: str | None = None) -> ModelFile:
        """Returns the file with the given name; by default, the served file.

        Raises:
            KeyError: There is no such file.
        """
        return {file.name: file for file in self.files}[self.served if name is None else name]

    def to_bytes(self) -> bytes:
        """Serializes the manifest as canonical JSON: equal manifests give equal bytes.

        Fields that were added to the format later are omitted if they are empty, so that a manifest from an earlier
        release keeps its digest.
        """
        return canonical_json.dumps(
            {
                "format": _FORMAT,
                "model": self.model,
                "params": dict(self.params),
                "run": self.run,
                "dataset_version": self.dataset_version,
                "files": [dict(vars(file)) for file in self.files],
                "served": self.served,
                "inputs": [_tensor_json(tensor) for tensor in self.inputs],
                "outputs": [_tensor_json(tensor) for tensor in self.outputs],
                "metrics": dict(self.metrics),
                "measurements": [_measurement_json(measurement) for measurement in self.measurements],
                **({} if self.accepted_loss is None else {"accepted_loss": self.accepted_loss}),
                **({"probes": self.probes} if self.probes else {}),
                **({"precision": asdict(self.precision)} if self.precision else {}),
                **({"origin": self.origin.to_json()} if self.origin else {}),
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "ModelManifest":
        """Reads an untrusted manifest.

        Raises:
            InvalidArgument: BAD_MANIFEST; the error names the path of the invalid value.
        """
        members = canonical_json.parse(data, reason="BAD_MANIFEST", document="model_manifest").object(
            "format", "model", "params", "run", "dataset_version", "files", "served", "inputs", "outputs", "metrics",
            "measurements", optional=("accepted_loss", "probes", "precision", "origin"),
        )  # fmt: skip
        if (version := members["format"].integer(minimum=1)) != _FORMAT:
            members["format"].fail(f"is {version}, but this program reads only format {_FORMAT}; update the program")
        files = tuple(_read_file(node) for node in members["files"].array(max_items=_MAX_ITEMS))
        names = [file.name for file in files]
        if len(set(names)) != len(names):
            members["files"].fail("names a file twice")
        probes = members["probes"].string(choices=names) if "probes" in members else ""
        return cls(
            model=members["model"].string(_NAME),
            params=members["params"].json_object(),
            run=members["run"].string(),
            dataset_version=members["dataset_version"].string(),
            files=files,
            served=members["served"].string(choices=[name for name in names if name != probes]),
            inputs=_read_tensors(members["inputs"]),
            outputs=_read_tensors(members["outputs"]),
            metrics={name: node.number() for name, node in members["metrics"].mapping(max_items=_MAX_ITEMS).items()},
            measurements=tuple(_read_measurement(node) for node in members["measurements"].array(max_items=_MAX_ITEMS)),
            accepted_loss=members["accepted_loss"].number() if "accepted_loss" in members else None,
            probes=probes,
            precision=_read_precision(members["precision"]) if "precision" in members else None,
            origin=Origin.read(members["origin"]) if "origin" in members else None,
        )


def _tensor_json(tensor: TensorSpec) -> dict[str, Any]:
    encoder = tensor.encoder
    return {
        "name": tensor.name,
        "datatype": tensor.datatype,
        "shape": list(tensor.shape),
        "encoder": encoder and {"name": encoder.name, "params": dict(encoder.params), "state": dict(encoder.state)},
        "field": tensor.field,
        "labels": list(tensor.labels),
    }


def _read_file(node: Node) -> ModelFile:
    members = node.object("name", "variant", "sha256", "size_bytes", "media_type")
    return ModelFile(
        name=members["name"].string(_NAME),
        variant=members["variant"].string(_NAME),
        sha256=members["sha256"].string(SHA256),
        size_bytes=members["size_bytes"].integer(minimum=1),
        media_type=members["media_type"].string(_MEDIA_TYPE),
    )


def _read_tensors(node: Node) -> tuple[TensorSpec, ...]:
    tensors = tuple(_read_tensor(item) for item in node.array(max_items=_MAX_ITEMS))
    if not tensors:
        node.fail("is empty; it must contain at least one tensor")
    if len({tensor.name for tensor in tensors}) != len(tensors):
        node.fail("names a tensor twice")
    return tensors


def _read_tensor(node: Node) -> TensorSpec:
    members = node.object("name", "datatype", "shape", "encoder", "field", "labels")
    shape = tuple(size.integer(minimum=-1) for size in members["shape"].array(max_items=16))
    return TensorSpec(
        name=members["name"].string(_TENSOR_NAME),
        datatype=members["datatype"].string(choices=DATATYPES),
        shape=shape,
        encoder=None if members["encoder"].is_null() else _read_encoder(members["encoder"]),
        field=members["field"].string(),
        labels=tuple(label.string() for label in members["labels"].array()),
    )


def _read_encoder(node: Node) -> EncoderSpec:
    members = node.object("name", "params", "state")
    return EncoderSpec(
        name=members["name"].string(_NAME),
        params=members["params"].json_object(),
        state=members["state"].json_object(),
    )


def _read_precision(node: Node) -> RunPrecision:
    members = node.object("precision", "reason", "ratios", "instruction_set")
    return RunPrecision(
        precision=members["precision"].string(_NAME),
        reason=members["reason"].string(_NAME),
        ratios={name: ratio.number() for name, ratio in members["ratios"].mapping(max_items=_MAX_ITEMS).items()},
        instruction_set=members["instruction_set"].string(_NAME),
    )


def _measurement_json(measurement: Measurement) -> dict[str, Any]:
    return {name: value for name, value in vars(measurement).items() if value not in (None, "")}


def _read_measurement(node: Node) -> Measurement:
    members = node.object(
        "variant", "latency_ms", "metric", "value", optional=("loss", "disagreement", "instruction_set")
    )
    return Measurement(
        variant=members["variant"].string(_NAME),
        latency_ms=members["latency_ms"].number(),
        metric=members["metric"].string(_NAME),
        value=members["value"].number(),
        loss=members["loss"].number() if "loss" in members else None,
        disagreement=members["disagreement"].number() if "disagreement" in members else None,
        instruction_set=members["instruction_set"].string(_NAME) if "instruction_set" in members else "",
    )
