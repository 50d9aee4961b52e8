"""Executes a run in a worker process, using `MixedPrecisionTrainer`. Rank 0 reports the events.

A checkpoint holds everything that a run needs to resume, so after a worker is killed, the run can resume from the last
checkpoint with the same result. Checkpoints are written directly to the store, and only their descriptors are reported.
"""

import os
import time
import warnings
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import nn

from common.errors import Aborted, FailedPrecondition, InvalidArgument, MeshError, plain_text
from deepseek.components import LOSSES, METRICS, OPTIMIZERS, SCHEDULES
from deepseek.steering.making import AbsentPolicy, LostPolicy, is_foreign, make_policy, open_policy
from deepseek.steering.policy import Policy
from deepseek.training import checkpoint as checkpoints
from deepseek.training import modules
from deepseek.training.dp_settings import DpSgd
from deepseek.training.events import EvaluationEvent, Event, StepEvent
from deepseek.training.rates import OpenPolicy
from deepseek.training.schedules import Schedule
from deepseek.training.selection import EarlyStopping, Epoch
from deepseek.training.trainer import MixedPrecisionTrainer
from deepseek.trainjob.fixed_statistics import fix_statistics
from deepseek.trainjob.inbox import Inbox
from deepseek.trainjob.jobfile import JobFile, report, report_failure
from deepseek.trainjob.pipeline import (
    build_model,
    check_exportable,
    check_forward,
    fit_mappings,
    freeze,
    load_initial_weights,
    open_splits,
    unseen_labels,
)
from deepseek.trainjob.runspec import LOSS, RunSpec
from deepseek.trainjob.withholding import withheld


def train(path: Path) -> None:
    """Executes the run of a job file, as the rank that `deepseek.trainjob.agent` has assigned to this process.

    Rank 0 first reports each warning of the trainer as a `warning`, and another `warning` if the model cannot be
    exported and the job file's option `exportable` is not set. It then reports the events of `fit`, and finally either
    `finished`, with the best epoch, or `stopped`.
    All these events except `stopped` contain `train_s`: the seconds since all ranks started, including the time for
    reading the data. If a MeshError ends the run, the rank that raised the error reports `failed`.

    Raises:
        MeshError: The run has failed, and the error has been reported. EXPORT_UNSUPPORTED if `exportable` is set and
            the model cannot be exported.
    """
    # The ranks find each other through a file in the job's private directory. The usual TCP store would listen on every
    # interface, and anyone who can reach it could write to it.
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    file = str(path.parent / "process-group")
    store = dist.FileStore(file, world_size)  # type: ignore[attr-defined]  # public, but missing from __all__
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world_size)
    try:
        started = time.monotonic()
        with ExitStack() as opened:
            _train(JobFile.open(path), started, opened)
    except MeshError as error:
        if not isinstance(error, Aborted):  # another rank failed and reports the reason itself
            report_failure(path.parent, error)
        raise
    finally:
        dist.destroy_process_group()


def _train(job: JobFile, started: float, opened: ExitStack) -> None:
    spec = job.spec
    mappings = fit_mappings(job)
    with withheld(spec):
        dataset, evaluation = open_splits(job, mappings)
    public = evaluation if spec.privacy and evaluation else dataset  # what is reported about these samples is published
    model = build_model(spec, mappings)
    check_forward(model, public, mappings, spec)
    if job.init and not job.checkpoint_sha256:
        load_initial_weights(job, model)
    freeze(model, spec)
    if spec.privacy:
        assert evaluation is not None, "a private run has an evaluation split"
        fix_statistics(model, evaluation, has_trained=job.init is not None)
    with warnings.catch_warnings(record=True, action="always") as given:
        trainer = make_trainer(spec, model, open_policy=_opener(job))
        opened.callback(trainer.steering.close)
        if spec.policy.name and not job.checkpoint_sha256:
            try:
                trainer.steering.check_policy()
            except (InvalidArgument, FailedPrecondition) as error:
                raise type(error)(error.reason, error.message, field=f"spec.{error.field}".rstrip(".")) from error
        if job.checkpoint_sha256:
            file = job.directory / f"checkpoint-{dist.get_rank()}"
            trainer.load(job.store.fetch(job.tenant, job.checkpoint_sha256, file))
            file.unlink()
    report_here = dist.get_rank() == 0
    if report_here:
        # The process's own output is deleted with its directory, so warnings are reported as events.
        messages = [plain_text(str(warning.message)) for warning in given]
        compares = not job.checkpoint_sha256 and not spec.privacy  # which labels the training data has may be private
        if evaluation and compares and (message := unseen_labels(job, mappings, dataset, evaluation)):
            messages.append(message)
        # The run that wrote an adopted checkpoint may have been allowed to train a model that cannot be exported.
        if not job.checkpoint_sha256 or job.options.get("exportable"):
            try:
                check_exportable(job, public, mappings)
            except FailedPrecondition as error:
                if job.options.get("exportable"):
                    raise
                messages.append(error.message)
        for message in messages:
            report(job.directory, "warning", message=message, train_s=time.monotonic() - started)

    def store(data: bytes) -> object:
        return job.store.put(job.tenant, data, checkpoints.MEDIA_TYPE).to_json()

    def on_event(event: Event) -> None:
        if spec.privacy and isinstance(event, StepEvent):
            event = replace(event, metrics={}, gradient_norm=0.0)  # exact figures of private examples
        report(job.directory, **event.to_json(), train_s=time.monotonic() - started)

    fit = withheld(spec)(trainer.fit)
    try:
        result = fit(
            dataset,
            epochs=spec.epochs,
            batch_size=spec.batch_size,
            evaluation=evaluation,
            on_event=on_event,
            checkpoint=store,
            checkpoint_interval_s=spec.checkpoint_interval_s,
            keep_best=store,
            stop=job.stop_requested,
            directives=Inbox.of(job),
            fetch=lambda value: job.store.fetch(job.tenant, value["sha256"], job.directory / "restored"),
        )
    except FailedPrecondition as error:  # e.g. the first step shows that a model cannot be private
        field = f"spec.{error.field}" if error.field else ""
        raise FailedPrecondition(error.reason, error.message, field=field) from error
    if result.stopped:
        if report_here:
            report(job.directory, "stopped")
        return
    best = result.best
    if best is None:
        # Without an evaluation split, the last epoch counts as the best, with its figures on the training data. The
        # same applies if the selected figure is NaN after every epoch.
        metrics = result.metrics or trainer.evaluate(evaluation or dataset, batch_size=spec.batch_size)
        epochs = [event.epoch for event in result.history if isinstance(event, EvaluationEvent)]
        best = Epoch(result.step, epochs[-1] if epochs else spec.epochs, metrics)
        if report_here and epochs:
            figure = spec.select_metric or LOSS
            message = f"{figure} is NaN after every epoch, so the last epoch counts as the best"
            report(job.directory, "warning", message=message, train_s=time.monotonic() - started)
    if report_here:
        report(job.directory, "finished", **asdict(best), train_s=time.monotonic() - started)


def _opener(job: JobFile) -> OpenPolicy:
    """Returns a function that makes a policy. On ranks other than 0, no process is started, because rank 0 decides.

    A run that resumes is not lost because the package of its policy is gone.
    """

    def open_one(name: str, params: Mapping[str, Any]) -> Policy:
        try:
            if dist.get_rank() and is_foreign(name):
                return AbsentPolicy()
            return open_policy(name, params, job.directory)
        except MeshError as error:
            if not job.checkpoint_sha256:
                raise
            return LostPolicy(error)

    return open_one


def make_trainer(
    spec: RunSpec,
    model: nn.Module,
    *,
    change_schedule: Callable[[Schedule], Schedule] | None = None,
    proximal_mu: float = 0.0,
    dp_sgd: DpSgd | None = None,
    open_policy: OpenPolicy = make_policy,
) -> MixedPrecisionTrainer:
    """Creates the trainer that a spec describes.

    Args:
        spec: Complete spec.
        model: The model.
        change_schedule: Function that returns the schedule to use, given that of the spec.
        proximal_mu: As for `MixedPrecisionTrainer`.
        dp_sgd: As for `MixedPrecisionTrainer`, in place of the spec's `privacy`.
        open_policy: As for `MixedPrecisionTrainer`.

    Raises:
        InvalidArgument: A component does not have a parameter that the spec names, or the components are incompatible.
        FailedPrecondition: NOT_PRIVATE_MODEL, NOT_PRIVATE_OPTIMIZER or NOT_PRIVATE_PRECISION, if DP-SGD cannot train
            the model.
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
            schedule=change_schedule(schedule) if change_schedule else schedule,
            policy=spec.policy.name or None,
            policy_params=spec.policy.params,
            open_policy=open_policy,
            metrics=metrics,
            select_metric=spec.select_metric or LOSS,
            early_stopping=EarlyStopping(**vars(spec.early_stopping)) if spec.early_stopping else None,
            clip_norm=spec.clip_norm,
            seed=spec.seed,
            inputs={mapping.input: mapping.input for mapping in spec.inputs},
            target="target",
            proximal_mu=proximal_mu,
            dp_sgd=dp_sgd or (spec.privacy.settings(spec.batch_size) if spec.privacy else None),
        )
    except (InvalidArgument, FailedPrecondition) as error:
        # The trainer's arguments have the names of the spec's fields.
        raise type(error)(error.reason, error.message, field=f"spec.{error.field}") from error
