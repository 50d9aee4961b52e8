"""The manifest of a model version: its files, and how to feed and read them.

A server needs this and the files, and nothing else: every input says which encoder (with what it has learned) turns a
user's value into its tensor, every output which labels its last axis has. Like a data set's manifest it is an artifact
addressed by the digest of its canonical JSON, and it holds no URIs and no times. It imports no torch.
"""

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from deepseek.data import canonical_json
from deepseek.data.canonical_json import Node
from deepseek.data.manifest import SHA256

MEDIA_TYPE = "application/vnd.deepseek.model.v1+json"
"""Media type of a model manifest."""
ONNX_MEDIA_TYPE = "application/vnd.onnx"
"""Media type of an ONNX file."""
DATATYPES = (
    "BOOL UINT8 UINT16 UINT32 UINT64 INT8 INT16 INT32 INT64 FP16 BF16 FP32 FP64 BYTES".split()  # noqa: SIM905
)
"""Tensor datatypes of the Open Inference Protocol."""

_FORMAT = 1
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")  # also safe as a file name
_MEDIA_TYPE = re.compile(r"[a-z0-9.+-]{1,100}/[a-z0-9.+-]{1,100}")
_MAX_ITEMS = 1024


@dataclass(frozen=True)
class ModelFile:
    """One file of a model.

    Attributes:
        name: Plain file name, e.g. `model.int8.onnx`.
        variant: Which form of the model it is, e.g. `fp32`, `int8`.
        sha256: Digest of its bytes, lower-case hexadecimal.
        size_bytes: Its size.
        media_type: What it is.
    """

    name: str
    variant: str
    sha256: str
    size_bytes: int
    media_type: str = ONNX_MEDIA_TYPE


@dataclass(frozen=True)
class EncoderSpec:
    """An encoder out of the registry `deepseek.encoders`, ready to be built anew.

    Attributes:
        name: Its name there.
        params: Its keyword arguments.
        state: What it learned from the training split.
    """

    name: str
    params: Mapping[str, Any] = field(default_factory=dict)
    state: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class TensorSpec:
    """An input or output of the model.

    Attributes:
        name: Its name in the graph.
        datatype: One of DATATYPES.
        shape: Its dimensions; -1 is any size.
        encoder: For an input: what turns a value into the tensor.
        field: For an input: the data set's field it was trained on.
        labels: For an output of class scores: the labels of its last axis.
    """

    name: str
    datatype: str
    shape: tuple[int, ...]
    encoder: EncoderSpec | None = None
    field: str = ""
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """What was measured of one variant when the model was exported.

    Attributes:
        variant: As in ModelFile.
        latency_ms: Median time of one request of one sample, milliseconds.
        metric: Name of the metric, e.g. `accuracy`.
        value: Its value on the evaluation split.
        loss: How much worse that value is than the float32 file's; negative if it is better. None: not recorded.
        disagreement: Disagreement with the probes' answers (`deepseek.models.probes.disagreement`). None: no probes.
        instruction_set: Instruction set it was measured on, as `deepseek.processor` names it; empty: not recorded.
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
    """The numeric format in which the version's run was trained.

    Attributes:
        precision: `fp32`, `bf16` or `fp16`.
        reason: Why this format was used (`deepseek.training.precision.Reason`).
        ratios: Measured time of a training step in each format relative to the fastest; empty on CUDA.
        instruction_set: Instruction set of the processor, as `deepseek.processor` names it.
    """

    precision: str
    reason: str
    ratios: Mapping[str, float]
    instruction_set: str


@dataclass(frozen=True)
class ModelManifest:
    """What a model version consists of.

    Attributes:
        model: Name in the registry `deepseek.models`.
        params: Keyword arguments it was built with.
        run: Name of the run that trained it, `runs/<id>`.
        dataset_version: Name of the data it was trained on, `datasets/<id>/versions/<n>`.
        files: Its files: the candidates for serving, and the files that belong to them.
        served: Name of the file that was preferred on the host where the model was exported.
        inputs: The graph's inputs, in order.
        outputs: The graph's outputs, in order.
        metrics: Figures of the trained model on the evaluation split.
        measurements: Figures of the exported variants.
        accepted_loss: Largest loss compared with the float32 file with which a file may be served: loss of the first
            metric where the model was exported, and of agreement with the probes where it is served. None: not used.
        probes: Name of the file that holds the probes (`deepseek.models.probes`); empty if there are none.
        precision: The numeric format of the run. None: not recorded.
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

    @property
    def candidates(self) -> tuple[ModelFile, ...]:
        """The files that can be served, each the model in another form."""
        return tuple(file for file in self.files if file.media_type == ONNX_MEDIA_TYPE or file.name == self.served)

    def measurement(self, variant: str) -> Measurement | None:
        """Returns the measurement of a variant; None if it was not measured."""
        return next((one for one in self.measurements if one.variant == variant), None)

    def file(self, name: str | None = None) -> ModelFile:
        """Returns the file with this name, or the served one.

        Raises:
            KeyError: There is none.
        """
        return {file.name: file for file in self.files}[self.served if name is None else name]

    def to_bytes(self) -> bytes:
        """Writes the manifest canonically: equal manifests give equal bytes.

        Fields that were added later are omitted if they are empty, so that an older manifest keeps its digest.
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
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "ModelManifest":
        """Reads a manifest that anyone may have written.

        Raises:
            InvalidArgument: BAD_MANIFEST with the path of what is wrong.
        """
        members = canonical_json.parse(data, reason="BAD_MANIFEST", document="model_manifest").object(
            "format", "model", "params", "run", "dataset_version", "files", "served", "inputs", "outputs", "metrics",
            "measurements", optional=("accepted_loss", "probes", "precision"),
        )  # fmt: skip
        if (version := members["format"].integer(minimum=1)) != _FORMAT:
            members["format"].fail(f"is {version}; this program reads format {_FORMAT}: update it")
        files = tuple(_read_file(node) for node in members["files"].array(max_items=_MAX_ITEMS))
        names = [file.name for file in files]
        if len(set(names)) != len(names):
            members["files"].fail("names one file twice")
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
        node.fail("is empty; a model has at least one")
    if len({tensor.name for tensor in tensors}) != len(tensors):
        node.fail("names one tensor twice")
    return tensors


def _read_tensor(node: Node) -> TensorSpec:
    members = node.object("name", "datatype", "shape", "encoder", "field", "labels")
    shape = tuple(size.integer(minimum=-1) for size in members["shape"].array(max_items=16))
    return TensorSpec(
        name=members["name"].string(_NAME),
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
