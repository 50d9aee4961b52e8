"""From a checkpoint to the files and the manifest of a model version.

The float32 file is always made. The int8 file is made if asked for, and served if it was measured faster and loses
little enough; both measurements are in the manifest either way. They are of the files themselves: latency, and the
first metric by ONNX Runtime on the whole evaluation split. The other metrics are the run's own, those of the model that
the files came from. All of them have to be finite: a model with an infinite loss is none to serve.
"""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnx
import torch
from torch import Tensor

from common.artifacts import Artifact
from common.errors import FailedPrecondition
from deepseek.components import LOSSES, METRICS
from deepseek.data.datasets import TARGET, EncodedDataset
from deepseek.models.manifest import (
    MEDIA_TYPE,
    ONNX_MEDIA_TYPE,
    EncoderSpec,
    Measurement,
    ModelFile,
    ModelManifest,
    TensorSpec,
)
from deepseek.training import checkpoint, onnx_files
from deepseek.training.jobfile import JobFile, report
from deepseek.training.losses import count_targets
from deepseek.training.pipeline import Mappings, build_model, fit_mappings, open_split

CALIBRATION_SAMPLES = 256
BATCH_SIZE = 32
_DATATYPES = {"uint8": "UINT8", "int64": "INT64", "float32": "FP32"}


@dataclass(frozen=True)
class Variant:
    """One form of the model, measured.

    Attributes:
        name: `fp32` or `int8`.
        path: Its file.
        latency_ms: Median time of a request of one sample.
        value: Of the first metric, on the evaluation split.
    """

    name: str
    path: Path
    latency_ms: float
    value: float


class FirstMetric:
    """The metric that variants are compared by: the spec's first one, or the loss if it names none.

    Args:
        job: The export.
    """

    def __init__(self, job: JobFile) -> None:
        spec = job.spec
        self._metric = None
        if spec.metrics:
            self._metric = METRICS.build(spec.metrics[0].name, spec.metrics[0].params, field="spec.metrics[0]")
        self._loss = LOSSES.build(spec.loss.name, spec.loss.params, field="spec.loss")
        self.name = spec.metrics[0].name if spec.metrics else "loss"

    def of_file(self, path: Path, dataset: EncodedDataset) -> float:
        """Computes the metric of an ONNX file over a whole data set."""
        session = onnx_files.open_session(path)
        totals = torch.zeros(self._metric.num_sums if self._metric else 2, dtype=torch.float64)
        for batch in batches(dataset):
            target = batch.pop(TARGET)
            output = torch.from_numpy(session.run(None, {name: value.numpy() for name, value in batch.items()})[0])
            if self._metric is not None:
                totals += self._metric.sums(output, target).double()
            else:
                count = count_targets(self._loss, target).double()
                totals += torch.stack([self._loss(output, target).double() * count, count])
        sums = totals.tolist()
        return float(self._metric.result(sums)) if self._metric else sums[0] / sums[1]

    def loss(self, reference: float, value: float) -> float:
        """How much worse `value` is than `reference`; negative if it is better."""
        greater_is_better = self._metric is not None and self._metric.greater_is_better
        return reference - value if greater_is_better else value - reference


def package(path: Path) -> Artifact:
    """Carries out an export: makes, checks and measures the files, and stores them with their manifest.

    Args:
        path: The job file; besides what every job file has: `run`, `metrics`, `int8`, `int8_max_loss`.

    Returns:
        The manifest. It is also reported, with the figures that the registry keeps.

    Raises:
        FailedPrecondition: METRIC_NOT_FINITE; some figure of the model is NaN or infinite.
        MeshError: The model cannot be exported, or the store fails.
    """
    job = JobFile.open(path)
    spec, options, directory = job.spec, job.options, job.directory
    for name, value in options["metrics"].items():
        _check_finite(f"{name} of {options['run']}", value)
    _progress(job, 0.05, "reading the data")
    mappings = fit_mappings(job)
    model = build_model(spec)
    assert job.checkpoint_sha256 is not None, "what is exported has been trained"
    weights = job.store.fetch(job.tenant, job.checkpoint_sha256, directory / "checkpoint")
    checkpoint.load_model(model, checkpoint.read(weights))
    model.eval()
    has_eval_split = bool(job.manifest.splits.get(spec.eval_split))
    split = spec.eval_split if has_eval_split else spec.train_split
    evaluation = open_split(job, split, mappings)
    repeated = [mapping.input for mapping in mappings.inputs if job.manifest.field(mapping.field).repeated]

    _progress(job, 0.2, "writing the graph")
    metric = FirstMetric(job)
    files = {"fp32": directory / "model.onnx"}
    onnx_files.export_onnx(model, _example(evaluation, repeated), repeated, files["fp32"])
    if options["int8"]:
        _progress(job, 0.5, "quantising")
        files["int8"] = directory / "model.int8.onnx"
        onnx_files.quantise(files["fp32"], list(_calibration(job, mappings)), files["int8"])

    _progress(job, 0.6, "measuring")
    requests = [_request(evaluation, i, repeated) for i in range(min(16, len(evaluation)))]
    sessions = [onnx_files.open_session(file) for file in files.values()]
    latencies = onnx_files.median_latencies_ms(sessions, requests)
    variants = [
        Variant(name, file, latency_ms, metric.of_file(file, evaluation))
        for (name, file), latency_ms in zip(files.items(), latencies, strict=True)
    ]
    served = choose(variants, metric, max_loss=options["int8_max_loss"])

    _progress(job, 0.9, "storing")
    stored = {variant.name: job.store.put(job.tenant, variant.path, ONNX_MEDIA_TYPE) for variant in variants}
    manifest = ModelManifest(
        model=spec.model.name,
        params=dict(spec.model.params),
        run=options["run"],
        dataset_version=spec.dataset_version,
        files=tuple(
            ModelFile(variant.path.name, variant.name, artifact.sha256, artifact.size_bytes)
            for variant, artifact in zip(variants, stored.values(), strict=True)
        ),
        served=served.path.name,
        inputs=_inputs(mappings, repeated),
        outputs=_outputs(mappings, files["fp32"]),
        metrics=options["metrics"],
        measurements=tuple(
            Measurement(variant.name, variant.latency_ms, metric.name, variant.value) for variant in variants
        ),
    )
    artifact = job.store.put(job.tenant, manifest.to_bytes(), MEDIA_TYPE)
    figures = {f"{split}/{name}": value for name, value in {**options["metrics"], metric.name: served.value}.items()}
    report(directory, "finished", manifest=artifact.to_json(), metrics=figures)
    return artifact


def choose(variants: list[Variant], metric: FirstMetric, *, max_loss: float) -> Variant:
    """The variant to serve: the fastest of those that lose at most `max_loss` against the first.

    Raises:
        FailedPrecondition: METRIC_NOT_FINITE; the first one's metric is NaN or infinite, so nothing compares to it.
    """
    reference = variants[0]
    _check_finite(f"{metric.name} of the {reference.name} file", reference.value)
    good = [variant for variant in variants if metric.loss(reference.value, variant.value) <= max_loss]
    return min(good, key=lambda variant: variant.latency_ms)


def _check_finite(what: str, value: float) -> None:
    if not math.isfinite(value):
        message = (
            f"{what} is {value}: the model gives no usable numbers on the evaluation data; train it anew, e.g. with a "
            "lower learning rate or a clip_norm"
        )
        raise FailedPrecondition("METRIC_NOT_FINITE", message)


def batches(dataset: EncodedDataset) -> Iterator[dict[str, Tensor]]:
    """A data set's samples in their stored order, in batches."""
    for start in range(0, len(dataset), BATCH_SIZE):
        yield dataset.collate([dataset[i] for i in range(start, min(start + BATCH_SIZE, len(dataset)))])


def _progress(job: JobFile, progress: float, message: str) -> None:
    report(job.directory, "progress", progress=progress, message=message)


def _example(dataset: EncodedDataset, repeated: list[str]) -> dict[str, Tensor]:
    """Three samples, with at least two values of a repeated input: a graph exported from less is not dynamic."""
    batch = dataset.collate([dataset[i % len(dataset)] for i in range(3)])
    del batch[TARGET]
    return {
        name: torch.cat([tensor, tensor], 1) if name in repeated and tensor.shape[1] < 2 else tensor
        for name, tensor in batch.items()
    }


def _request(dataset: EncodedDataset, index: int, repeated: list[str]) -> dict[str, npt.NDArray[Any]]:
    """What a client asks: one sample, and of a repeated field one value."""
    batch = dataset.collate([dataset[index]])
    del batch[TARGET]
    return {name: (tensor[:, :1] if name in repeated else tensor).numpy() for name, tensor in batch.items()}


def _calibration(job: JobFile, mappings: Mappings) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
    """Training samples, out of as few shards as give enough."""
    shards, num_samples = [], 0
    for shard in job.manifest.shards(job.spec.train_split):
        shards.append(shard)
        num_samples += shard.num_samples
        if num_samples >= CALIBRATION_SAMPLES:
            break
    few = replace(job, manifest=replace(job.manifest, splits={job.spec.train_split: tuple(shards)}))
    for position, batch in enumerate(batches(open_split(few, job.spec.train_split, mappings))):
        if position * BATCH_SIZE >= CALIBRATION_SAMPLES:
            return
        del batch[TARGET]
        yield {name: tensor.numpy() for name, tensor in batch.items()}


def _inputs(mappings: Mappings, repeated: list[str]) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            name=mapping.input,
            datatype=_DATATYPES[mapping.encoder.dtype.name],
            shape=(-1, *([-1] if mapping.input in repeated else []), *mapping.encoder.shape),
            encoder=EncoderSpec(name, mapping.encoder.params, mapping.encoder.state()),
            field=mapping.field,
        )
        for mapping, name in zip(mappings.inputs, mappings.encoder_names, strict=True)
    )


def _outputs(mappings: Mappings, path: Path) -> tuple[TensorSpec, ...]:
    (output,) = onnx.load(path, load_external_data=False).graph.output
    shape = tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in output.type.tensor_type.shape.dim)
    labels = tuple(getattr(mappings.target.encoder, "labels", ()))
    return (TensorSpec(output.name, "FP32", shape, labels=labels if shape[-1:] == (len(labels),) else ()),)
