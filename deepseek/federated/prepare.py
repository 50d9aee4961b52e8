"""Prepares a federated run: `python -m deepseek.federated.prepare JOB.json`, a child process of the coordinator's job.

The job file is that of `deepseek.trainjob.jobfile`, with the additional member `fit` (`FitSettings`). The process fits
the encoders to the reference data set version, builds the model, checks that rounds can train it, and stores the recipe
and the initial arrays. It reports `progress`, a `warning` for each problem that does not end the run, and finally
`finished` with the descriptors `recipe` and `arrays`, or `failed`.
"""

import copy
import sys
import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from common.errors import FailedPrecondition, InvalidArgument, MeshError, plain_text
from common.processes import die_with_parent
from deepseek.data.datasets import EncodedDataset
from deepseek.federated import arrays, model_state
from deepseek.federated.fit_settings import FitSettings
from deepseek.federated.product import product_version
from deepseek.federated.recipe import MEDIA_TYPE, Recipe
from deepseek.federated.training import settled
from deepseek.training.dp_settings import DpSgd
from deepseek.training.running_statistics import fit_statistics
from deepseek.trainjob import pipeline
from deepseek.trainjob.fixed_statistics import input_batches
from deepseek.trainjob.jobfile import JobFile, report, report_failure, traced
from deepseek.trainjob.pipeline import FittedMappings
from deepseek.trainjob.runspec import RunSpec
from deepseek.trainjob.train import make_trainer


def prepare(path: Path) -> Recipe:
    """Executes the job of a job file, and returns the stored recipe.

    Raises:
        InvalidArgument: The spec is invalid or not suitable for rounds, e.g. BAD_MODEL_STATE.
        FailedPrecondition: INIT_MISMATCH if the initial model version has another form; NOT_PRIVATE_MODEL,
            NOT_PRIVATE_OPTIMIZER or NOT_PRIVATE_PRECISION if DP-SGD cannot train the model.
        ResourceExhausted: RECIPE_TOO_LARGE.
        MeshError: The store fails.
    """
    job = JobFile.open(path)
    job = replace(job, spec=job.spec.resolved(job.spec.dataset_version, job.manifest))
    check_spec(job.spec)
    settings = FitSettings.from_json(job.options.get("fit") or {})
    report(job.directory, "progress", progress=0.1, message="reading the reference data")
    mappings = pipeline.fit_mappings(job)
    training, evaluation = pipeline.open_splits(job, mappings)

    report(job.directory, "progress", progress=0.5, message="building the model")
    model = pipeline.build_model(job.spec, mappings)
    pipeline.check_forward(model, training, mappings, job.spec)
    if job.init:
        pipeline.load_initial_weights(job, model)
    pipeline.freeze(model, job.spec)
    model_state.check_state(model)
    frozen = fit_statistics(model, input_batches(training))
    _check_components(job, model, mappings, training, evaluation)
    if settings.dp_sgd:
        _try_dp_sgd(job.spec, copy.deepcopy(model), training, settings.dp_sgd)
    seeded = pipeline.build_model(job.spec, mappings)
    recipe = Recipe(
        product=product_version(),
        spec=job.spec,
        fields=tuple(job.manifest.field(name) for name in _field_names(job.spec)),
        encoders=tuple(mapping.encoder.state() for mapping in (*mappings.inputs, mappings.target)),
        shapes=model_state.shapes(model),
        fixed=model_state.fixed(model, seeded),
        frozen=frozen,
        rest_sha256=model_state.rest_sha256(model),
    )

    report(job.directory, "progress", progress=0.9, message="storing")
    stored = job.store.put(job.tenant, recipe.to_bytes(), MEDIA_TYPE)
    initial = job.store.put(job.tenant, arrays.to_bytes(model_state.arrays(model)), arrays.MEDIA_TYPE)
    report(job.directory, "finished", recipe=stored.to_json(), arrays=initial.to_json())
    return recipe


def check_spec(spec: RunSpec) -> None:
    """Checks that a spec has no settings that federated runs do not support.

    Raises:
        InvalidArgument: BAD_VALUE.
    """
    if spec.early_stopping:
        message = "a federated run has a fixed number of rounds and does not stop early; leave it out"
        raise InvalidArgument("BAD_VALUE", message, field="spec.early_stopping")
    if spec.policy.name:
        message = "a federated run has no policy; state the learning rate of each round by a schedule"
        raise InvalidArgument("BAD_VALUE", message, field="spec.policy")
    if spec.privacy:
        message = "privacy is stated for the federated run, not for its model; leave it out here"
        raise InvalidArgument("BAD_VALUE", message, field="spec.privacy")
    if spec.num_workers > 1:
        message = f"num_workers is {spec.num_workers}; a node trains in one process, so leave it out"
        raise InvalidArgument("BAD_VALUE", message, field="spec.num_workers")


def _check_components(
    job: JobFile,
    model: nn.Module,
    mappings: FittedMappings,
    training: EncodedDataset,
    evaluation: EncodedDataset | None,
) -> None:
    """Builds the other parts of the spec to check their parameters, and reports warnings."""
    with warnings.catch_warnings(record=True, action="always") as given:
        make_trainer(settled(job.spec), model)
    messages = [plain_text(str(warning.message)) for warning in given]
    if evaluation and (message := pipeline.unseen_labels(job, mappings, training, evaluation)):
        messages.append(message)
    if evaluation is None:
        messages.append("the reference data has no evaluation split, so rounds are evaluated on its training split")
    try:
        pipeline.check_exportable(job, training, mappings)
    except FailedPrecondition as error:
        if job.options.get("exportable"):
            raise
        messages.append(error.message)
    for message in messages:
        report(job.directory, "warning", message=message)


def _try_dp_sgd(spec: RunSpec, model: nn.Module, training: EncodedDataset, settings: DpSgd) -> None:
    """Makes one step of DP-SGD with two examples."""
    trainer = make_trainer(settled(spec), model, dp_sgd=replace(settings, sampling_rate=1.0))
    try:
        trainer.fit(training.part(range(min(2, len(training)))), on_event=lambda event: None)
    except FailedPrecondition as error:
        raise FailedPrecondition(error.reason, error.message, field=f"spec.{error.field}") from error


def _field_names(spec: RunSpec) -> list[str]:
    """Returns the names of the fields that a spec uses, each once."""
    return list(dict.fromkeys([*(mapping.field for mapping in spec.inputs), spec.target.field]))


def main(argv: Sequence[str]) -> int:
    """Executes the job of a job file, and returns the exit code."""
    die_with_parent()
    path = Path(argv[0])
    torch.set_num_threads(1)
    try:
        with traced(path, "prepare"):
            prepare(path)
    except MeshError as error:
        report_failure(path.parent, error)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
