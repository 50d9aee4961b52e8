"""From a checkpoint to the files and the manifest of a model version.

The float32 file is always made, the int8 file on request. Both are measured: latency, and the first metric, computed by
ONNX Runtime on the whole evaluation split. A server decides by its own measurements which file it serves, so a version
carries probes and records what was measured on which processor. The version's figures are those of the run and of the
float32 file. All of them must be finite: a model with an infinite loss must not be served.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
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
    RunPrecision,
    TensorSpec,
)
from deepseek.models.probes import MEDIA_TYPE as PROBES_MEDIA_TYPE
from deepseek.models.probes import Probes
from deepseek.models.selection import exported, select
from deepseek.processor import instruction_set
from deepseek.training import checkpoint, onnx_files
from deepseek.training.jobfile import JobFile, report
from deepseek.training.losses import count_targets
from deepseek.training.pipeline import Mappings, build_model, example_batch, fit_mappings, open_split
from deepseek.training.probing import Request, check_lengths, make_probes, make_requests
from deepseek.training.tracing import Outputs

CALIBRATION_SAMPLES = 256
BATCH_SIZE = 32
PROBES_FILE = "probes.npz"
_DATATYPES = {
    "bool": "BOOL",
    **{f"{kind}{bits}": f"{kind.upper()}{bits}" for kind in ("uint", "int") for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
}


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

    def of_file(self, path: Path, dataset: EncodedDataset, outputs: Outputs) -> float:
        """Computes the metric of an ONNX file with the given outputs over a whole data set."""
        session = onnx_files.open_session(path)
        totals = torch.zeros(self._metric.num_sums if self._metric else 2, dtype=torch.float64)
        for batch in batches(dataset):
            target = batch.pop(TARGET)
            output = outputs.restore(session.run(None, {name: value.numpy() for name, value in batch.items()}))
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
        path: The job file. Besides the common members it has `run`, `metrics`, `precision`, `int8`, `int8_max_loss`.

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
    files = {"fp32": directory / "model.onnx"}
    form = onnx_files.export_onnx(model, example_batch(evaluation, repeated), repeated, files["fp32"])
    inputs, outputs = _inputs(mappings, files["fp32"]), _outputs(mappings, files["fp32"])
    fixed = {spec.name: spec.shape[1] for spec in inputs if spec.name in repeated and spec.shape[1] >= 0}
    check_lengths(evaluation, fixed)
    if options["int8"]:
        _progress(job, 0.5, "quantising")
        files["int8"] = directory / "model.int8.onnx"
        calibration = _calibration_split(job, mappings)
        check_lengths(calibration, fixed)
        onnx_files.quantise(files["fp32"], list(_calibration(calibration)), files["int8"])

    _progress(job, 0.6, "measuring")
    requests = make_requests(evaluation, [name for name in repeated if name not in fixed])
    measurements, probes = _measure(files, requests, FirstMetric(job), evaluation, outputs, form)
    served, _ = select(exported(measurements, options["int8_max_loss"]))

    _progress(job, 0.9, "storing")
    stored = [
        ModelFile(files[one.variant].name, one.variant, artifact.sha256, artifact.size_bytes, artifact.media_type)
        for one in measurements
        for artifact in [job.store.put(job.tenant, files[one.variant], ONNX_MEDIA_TYPE)]
    ]
    if probes is not None:
        artifact = job.store.put(job.tenant, probes.to_bytes(), PROBES_MEDIA_TYPE)
        stored.append(ModelFile(PROBES_FILE, "probes", artifact.sha256, artifact.size_bytes, artifact.media_type))
    manifest = ModelManifest(
        model=spec.model.name,
        params=dict(spec.model.params),
        run=options["run"],
        dataset_version=spec.dataset_version,
        files=tuple(stored),
        served=stored[served].name,
        inputs=inputs,
        outputs=outputs,
        metrics=options["metrics"],
        measurements=tuple(measurements),
        accepted_loss=options["int8_max_loss"],
        probes=PROBES_FILE if probes is not None else "",
        precision=RunPrecision(**options["precision"]) if options.get("precision") else None,
    )
    artifact = job.store.put(job.tenant, manifest.to_bytes(), MEDIA_TYPE)
    reference = measurements[0]
    figures = {
        f"{split}/{name}": value for name, value in {**manifest.metrics, reference.metric: reference.value}.items()
    }
    report(directory, "finished", manifest=artifact.to_json(), metrics=figures)
    return artifact


def _measure(
    files: Mapping[str, Path],
    requests: Sequence[Request],
    metric: FirstMetric,
    evaluation: EncodedDataset,
    outputs: Sequence[TensorSpec],
    form: Outputs,
) -> tuple[list[Measurement], Probes | None]:
    """Measures every file, the float32 one first.

    The int8 file is left out if its metric is not finite, or if there are no probes to verify it with.
    """
    sessions = {variant: onnx_files.open_session(file) for variant, file in files.items()}
    latencies = onnx_files.median_latencies_ms(list(sessions.values()), requests[:16])
    values = {variant: metric.of_file(file, evaluation, form) for variant, file in files.items()}
    _check_finite(f"{metric.name} of the fp32 file", values["fp32"])
    probes = make_probes(files["fp32"], requests, latency_ms=latencies[0])
    classes = [output.name for output in outputs if output.labels]
    measurements = [
        Measurement(
            variant=variant,
            latency_ms=latency_ms,
            metric=metric.name,
            value=values[variant],
            loss=metric.loss(values["fp32"], values[variant]),
            disagreement=None
            if probes is None
            else probes.disagreement(partial(sessions[variant].run, list(probes.outputs)), classes),
            instruction_set=instruction_set(),
        )
        for variant, latency_ms in zip(files, latencies, strict=True)
        if variant == "fp32" or (probes is not None and math.isfinite(values[variant]))
    ]
    return measurements, probes


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


def _calibration_split(job: JobFile, mappings: Mappings) -> EncodedDataset:
    """Training samples, out of as few shards as give enough."""
    shards, num_samples = [], 0
    for shard in job.manifest.shards(job.spec.train_split):
        shards.append(shard)
        num_samples += shard.num_samples
        if num_samples >= CALIBRATION_SAMPLES:
            break
    few = replace(job, manifest=replace(job.manifest, splits={job.spec.train_split: tuple(shards)}))
    return open_split(few, job.spec.train_split, mappings)


def _calibration(dataset: EncodedDataset) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
    for batch in islice(batches(dataset), CALIBRATION_SAMPLES // BATCH_SIZE):
        del batch[TARGET]
        yield {name: tensor.numpy() for name, tensor in batch.items()}


def _inputs(mappings: Mappings, path: Path) -> tuple[TensorSpec, ...]:
    """The graph's inputs; a graph may accept lists of one length only, whatever its field holds."""
    shapes = {node.name: onnx_files.shape_of(node) for node in onnx.load(path, load_external_data=False).graph.input}
    return tuple(
        TensorSpec(
            name=mapping.input,
            datatype=_DATATYPES[mapping.encoder.dtype.name],
            shape=shapes[mapping.input],
            encoder=EncoderSpec(name, mapping.encoder.params, mapping.encoder.state()),
            field=mapping.field,
        )
        for mapping, name in zip(mappings.inputs, mappings.encoder_names, strict=True)
    )


def _outputs(mappings: Mappings, path: Path) -> tuple[TensorSpec, ...]:
    """The graph's outputs; the labels belong to the first output whose last axis has one element per label."""
    labels = tuple(getattr(mappings.target.encoder, "labels", ()))
    specs = []
    for node in onnx.load(path, load_external_data=False).graph.output:
        shape = onnx_files.shape_of(node)
        is_labelled = bool(labels) and shape[-1:] == (len(labels),)
        datatype = _DATATYPES[onnx.helper.tensor_dtype_to_np_dtype(node.type.tensor_type.elem_type).name]
        specs.append(TensorSpec(node.name, datatype, shape, labels=labels if is_labelled else ()))
        labels = () if is_labelled else labels
    return tuple(specs)
