"""Exports a checkpoint as the files and the manifest of a model version.

A version always has a float32 file, and on request an int8 file. The export runs each file in ONNX Runtime to measure
its latency, and to compute the run's first metric on the whole evaluation split. The version also contains probes, with
which a server tests the files before it decides which one to serve. All metrics of the run and of the float32 file must
be finite.
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
from deepseek.data.manifest import Shard
from deepseek.models.datatypes import DATATYPES
from deepseek.models.manifest import (
    MEDIA_TYPE,
    ONNX_MEDIA_TYPE,
    WEIGHTS_FILE,
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
from deepseek.training import checkpoint
from deepseek.training.losses import count_targets
from deepseek.trainjob import onnx_files
from deepseek.trainjob.held_out import held_out_indices
from deepseek.trainjob.jobfile import JobFile, report
from deepseek.trainjob.pipeline import (
    FittedMappings,
    build_model,
    example_batch,
    fit_mappings,
    model_params,
    open_evaluation,
    open_split,
)
from deepseek.trainjob.probing import Request, check_lengths, make_probes, make_requests
from deepseek.trainjob.tracing import Outputs

CALIBRATION_SAMPLES = 256
BATCH_SIZE = 32
PROBES_FILE = "probes.npz"
HELD_OUT = "held_out"
"""Replaces the name of a split in the names of figures on samples that were held out of the training split."""


class ComparisonMetric:
    """The metric for comparing files: the first metric of the spec, or the loss if the spec has no metrics.

    Args:
        job: Job file of the export.
    """

    def __init__(self, job: JobFile) -> None:
        spec = job.spec
        self._metric = None
        if spec.metrics:
            self._metric = METRICS.build(spec.metrics[0].name, spec.metrics[0].params, field="spec.metrics[0]")
        self._loss = LOSSES.build(spec.loss.name, spec.loss.params, field="spec.loss")
        self.name = spec.metrics[0].name if spec.metrics else "loss"

    def compute(self, path: Path, dataset: EncodedDataset, outputs: Outputs) -> float:
        """Computes the metric of an ONNX file on a data set. `outputs` describes the outputs of the file."""
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

    def degradation(self, reference: float, value: float) -> float:
        """Returns how much worse `value` is than `reference`; negative if it is better."""
        greater_is_better = self._metric is not None and self._metric.greater_is_better
        return reference - value if greater_is_better else value - reference


def export(path: Path) -> Artifact:
    """Creates, checks and measures the files of a model version, and stores them with their manifest.

    Args:
        path: Path of the job file. Besides the members that every job file has, it contains `run`, `metrics`,
            `precision`, `int8` and `int8_max_loss`.

    Returns:
        The stored manifest. The event `finished` also reports this manifest, together with the metrics for the
        registry.

    Raises:
        FailedPrecondition: METRIC_NOT_FINITE if a metric of the model is NaN or infinite.
        MeshError: The model cannot be exported, or the store fails.
    """
    job = JobFile.open(path)
    spec, options, directory = job.spec, job.options, job.directory
    for name, value in options["metrics"].items():
        _check_finite(f"{name} of {options['run']}", value)
    _progress(job, 0.05, "reading the data")
    mappings = fit_mappings(job)
    model = build_model(spec, mappings)
    assert job.checkpoint_sha256 is not None, "only a trained run is exported"
    weights = job.store.fetch(job.tenant, job.checkpoint_sha256, directory / "checkpoint")
    checkpoint.load_model(model, checkpoint.read(weights))
    model.eval()
    evaluation, split = open_evaluation(job, mappings), HELD_OUT if spec.eval_share else spec.eval_split
    if evaluation is None:
        evaluation, split = open_split(job, spec.train_split, mappings), spec.train_split
    repeated = [mapping.input for mapping in mappings.inputs if job.manifest.field(mapping.field).repeated]

    _progress(job, 0.2, "writing the graph")
    files = {"fp32": directory / "model.onnx"}
    form = onnx_files.export_onnx(model, example_batch(evaluation, repeated), repeated, files["fp32"])
    inputs, outputs = _inputs(mappings, files["fp32"]), _outputs(mappings, files["fp32"])
    fixed = {spec.name: spec.shape[1] for spec in inputs if spec.name in repeated and spec.shape[1] >= 0}
    check_lengths(evaluation, fixed)
    if options["int8"]:
        _progress(job, 0.5, "quantizing")
        files["int8"] = directory / "model.int8.onnx"
        # Ranges of activations would reveal private examples.
        calibration = evaluation if spec.privacy else calibration_split(job, mappings)
        check_lengths(calibration, fixed)
        onnx_files.quantize(files["fp32"], list(_calibration(calibration)), files["int8"])

    _progress(job, 0.6, "measuring")
    requests = make_requests(evaluation, [name for name in repeated if name not in fixed])
    measurements, probes = _measure(files, requests, ComparisonMetric(job), evaluation, outputs, form)
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
    # The additional entry, which loading ignores, keeps the file distinct from all files of runs: a run deletes files
    # that it no longer needs, and the store identifies files by their content.
    state = {**checkpoint.model_state(model), "exported": True}
    artifact = job.store.put(job.tenant, checkpoint.dumps(state), checkpoint.MEDIA_TYPE)
    stored.append(ModelFile(WEIGHTS_FILE, "weights", artifact.sha256, artifact.size_bytes, artifact.media_type))
    manifest = ModelManifest(
        model=spec.model.name,
        params=model_params(spec, mappings),
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
    metric: ComparisonMetric,
    evaluation: EncodedDataset,
    outputs: Sequence[TensorSpec],
    form: Outputs,
) -> tuple[list[Measurement], Probes | None]:
    """Measures every file, and returns the measurements and the probes.

    The first measurement is that of the float32 file. The int8 file is left out if its metric is not finite, or if
    there are no probes to verify it with.
    """
    sessions = {variant: onnx_files.open_session(file) for variant, file in files.items()}
    latencies = onnx_files.median_latencies_ms(list(sessions.values()), requests[:16])
    values = {variant: metric.compute(file, evaluation, form) for variant, file in files.items()}
    _check_finite(f"{metric.name} of the fp32 file", values["fp32"])
    probes = make_probes(files["fp32"], requests, latency_ms=latencies[0])
    classes = [output.name for output in outputs if output.labels]
    measurements = [
        Measurement(
            variant=variant,
            latency_ms=latency_ms,
            metric=metric.name,
            value=values[variant],
            loss=metric.degradation(values["fp32"], values[variant]),
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
            f"{what} is {value}, so the model is unusable on the evaluation data; train again, e.g. with a lower "
            "learning rate or with clip_norm"
        )
        raise FailedPrecondition("METRIC_NOT_FINITE", message)


def batches(dataset: EncodedDataset) -> Iterator[dict[str, Tensor]]:
    """Yields the samples of a data set in batches, in stored order."""
    for start in range(0, len(dataset), BATCH_SIZE):
        yield dataset.collate([dataset[i] for i in range(start, min(start + BATCH_SIZE, len(dataset)))])


def _progress(job: JobFile, progress: float, message: str) -> None:
    report(job.directory, "progress", progress=progress, message=message)


def calibration_split(job: JobFile, mappings: FittedMappings) -> EncodedDataset:
    """Returns training samples for calibration, from as few shards as possible; none of them is held out."""
    split = job.spec.train_split
    held_out = set(held_out_indices(job.spec, job.manifest.num_samples(split)))
    shards: list[Shard] = []
    chosen: list[int] = []
    for shard in job.manifest.shards(split):
        first = sum(one.num_samples for one in shards)
        shards.append(shard)
        chosen += [index for index in range(first, first + shard.num_samples) if index not in held_out]
        if len(chosen) >= CALIBRATION_SAMPLES:
            break
    few = replace(job, manifest=replace(job.manifest, splits={split: tuple(shards)}))
    return open_split(few, split, mappings).part(chosen)


def _calibration(dataset: EncodedDataset) -> Iterator[Mapping[str, npt.NDArray[Any]]]:
    for batch in islice(batches(dataset), CALIBRATION_SAMPLES // BATCH_SIZE):
        del batch[TARGET]
        yield {name: tensor.numpy() for name, tensor in batch.items()}


def _inputs(mappings: FittedMappings, path: Path) -> tuple[TensorSpec, ...]:
    """Returns the specs of the graph's inputs.

    The shapes are read from the graph, because the graph may accept only lists of one particular length.
    """
    shapes = {node.name: onnx_files.shape_of(node) for node in onnx.load(path, load_external_data=False).graph.input}
    return tuple(
        TensorSpec(
            name=mapping.input,
            datatype=DATATYPES[mapping.encoder.dtype],
            shape=shapes[mapping.input],
            encoder=EncoderSpec(name, mapping.encoder.params, mapping.encoder.state()),
            field=mapping.field,
        )
        for mapping, name in zip(mappings.inputs, mappings.encoder_names, strict=True)
    )


def _outputs(mappings: FittedMappings, path: Path) -> tuple[TensorSpec, ...]:
    """Returns the specs of the graph's outputs.

    The target's labels are assigned to the first output whose last axis has one element per label.
    """
    labels = tuple(getattr(mappings.target.encoder, "labels", ()))
    specs = []
    for node in onnx.load(path, load_external_data=False).graph.output:
        shape = onnx_files.shape_of(node)
        is_labelled = bool(labels) and shape[-1:] == (len(labels),)
        datatype = DATATYPES[onnx.helper.tensor_dtype_to_np_dtype(node.type.tensor_type.elem_type)]
        specs.append(TensorSpec(node.name, datatype, shape, labels=labels if is_labelled else ()))
        labels = () if is_labelled else labels
    return tuple(specs)
