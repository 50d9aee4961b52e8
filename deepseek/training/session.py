"""What a worker does: trains a run with `MixedPrecisionTrainer`, and reports from rank 0.

Whatever a run needs to go on lies in its checkpoint, so a session that was killed at any moment is repeated from the
last one with the same result. Checkpoints go straight to the store; what is reported is their descriptor.
"""

import os
import time
import warnings
from pathlib import Path

import torch.distributed as dist
from torch import nn

from common.errors import Aborted, InvalidArgument, MeshError, plain_text
from deepseek.components import LOSSES, METRICS, OPTIMIZERS, SCHEDULES
from deepseek.training import checkpoint as checkpoints
from deepseek.training import modules
from deepseek.training.events import Event
from deepseek.training.jobfile import JobFile, report, report_failure
from deepseek.training.pipeline import build_model, export_problem, fit_mappings, open_split, try_out
from deepseek.training.runspec import RunSpec
from deepseek.training.trainer import MixedPrecisionTrainer


def train(path: Path) -> None:
    """Carries out the job file's run in this process, which is one rank; `deepseek.training.agent` names it.

    Reports on rank 0: a `warning` for each warning of the trainer and for a model that cannot be exported; then the
    events of `fit`, all with `train_s`, the seconds since all ranks started, including reading the data; then
    `finished` with the final metrics, or `stopped`; `failed` if a MeshError ends the run.

    Raises:
        MeshError: What the run's owner can understand; it has been reported.
    """
    # The ranks find each other by a file in the job's directory, which nobody else can read. The usual TCP store would
    # listen on every interface, and whoever reaches it could write into it.
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    file = str(path.parent / "process-group")
    store = dist.FileStore(file, world_size)  # type: ignore[attr-defined]  # public, but missing from __all__
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    try:
        started = time.monotonic()
        _train(JobFile.open(path), started)
    except MeshError as error:
        if not isinstance(error, Aborted):  # another rank failed, and says why itself
            report_failure(path.parent, error)
        raise
    finally:
        dist.destroy_process_group()


def _train(job: JobFile, started: float) -> None:
    spec = job.spec
    mappings = fit_mappings(job)
    dataset = open_split(job, spec.train_split, mappings, augment=True)
    has_eval_split = bool(job.manifest.splits.get(spec.eval_split))
    evaluation = open_split(job, spec.eval_split, mappings) if has_eval_split else None
    model = build_model(spec)
    try_out(model, dataset, mappings, spec)
    with warnings.catch_warnings(record=True, action="always") as given:
        trainer = make_trainer(spec, model)
        if job.checkpoint_sha256:
            file = job.directory / f"checkpoint-{dist.get_rank()}"
            trainer.load(job.store.fetch(job.tenant, job.checkpoint_sha256, file))
            file.unlink()
    report_here = dist.get_rank() == 0
    if report_here:
        # The process's own output goes with its directory; nobody would read them there.
        messages = [plain_text(str(warning.message)) for warning in given]
        # Not every run is exported, so this is not an error; but a user who wants to should know before training.
        if not job.checkpoint_sha256 and (problem := export_problem(job, dataset)):
            messages.append(f"the model can be trained but not exported: {problem}")
        for message in messages:
            report(job.directory, "warning", message=message, train_s=time.monotonic() - started)

    def store(data: bytes) -> object:
        return job.store.put(job.tenant, data, checkpoints.MEDIA_TYPE).to_json()

    def on_event(event: Event) -> None:
        report(job.directory, **event.to_json(), train_s=time.monotonic() - started)

    result = trainer.fit(
        dataset,
        epochs=spec.epochs,
        batch_size=spec.batch_size,
        evaluation=evaluation,
        on_event=on_event,
        checkpoint=store,
        checkpoint_interval_s=spec.checkpoint_interval_s,
        stop=job.stop_asked,
    )
    if result.stopped:
        if report_here:
            report(job.directory, "stopped")
        return
    # A session that went on from the very last checkpoint has trained nothing, so it has not evaluated either.
    metrics = result.metrics or trainer.evaluate(evaluation or dataset, batch_size=spec.batch_size)
    if report_here:
        report(job.directory, "finished", metrics=dict(metrics), train_s=time.monotonic() - started)


def make_trainer(spec: RunSpec, model: nn.Module) -> MixedPrecisionTrainer:
    """The trainer that a spec describes.

    Raises:
        InvalidArgument: A component does not accept a parameter, or parts do not fit together; with the path in the
            spec.
    """
    modules.check_model(model, field="spec.model")
    optimizer = OPTIMIZERS.build(
        spec.optimizer.name, spec.optimizer.params, field="spec.optimizer", params=list(model.parameters())
    )
    loss = LOSSES.build(spec.loss.name, spec.loss.params, field="spec.loss")
    schedule = SCHEDULES.build(spec.schedule.name, spec.schedule.params, field="spec.schedule")
    metrics = [
        METRICS.build(metric.name, metric.params, field=f"spec.metrics[{i}]") for i, metric in enumerate(spec.metrics)
    ]
    try:
        return MixedPrecisionTrainer(
            model,
            optimizer=optimizer,
            precision=spec.precision,
            loss=loss,
            schedule=schedule,
            metrics=metrics,
            clip_norm=spec.clip_norm,
            seed=spec.seed,
            inputs={mapping.input: mapping.input for mapping in spec.inputs},
            target="target",
        )
    except InvalidArgument as error:  # its arguments have the names of the spec's fields
        raise InvalidArgument(error.reason, error.message, field=f"spec.{error.field}") from error
