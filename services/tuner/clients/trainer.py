"""gRPC client for the trainer."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal

import grpc
from google.protobuf import json_format

from common.auth.identity import on_behalf_of
from common.errors import ERROR_CLASSES, FailedPrecondition, Internal, MeshError, NotFound, Unavailable, Violation
from deepseek.trainjob.runspec import RunSpec
from protos.job.v1 import job_pb2
from protos.trainer.v1 import trainer_pb2, trainer_pb2_grpc
from services.tuner.ports import Action, Evaluation, Evaluations, Finished, Restore

_DEADLINE_S = 10.0
_STREAM_S = 30.0
"""Deadline of streams that do not wait for a run to end."""
_SUBMIT_PRIVATE_S = 180.0
"""Deadline for private runs, in seconds: the trainer may compute how much noise a budget allows."""
_FINAL: Mapping[int, Literal["SUCCEEDED", "FAILED", "CANCELLED"]] = {
    job_pb2.JOB_STATE_SUCCEEDED: "SUCCEEDED",
    job_pb2.JOB_STATE_FAILED: "FAILED",
    job_pb2.JOB_STATE_CANCELLED: "CANCELLED",
}


class TrainerClient:
    """Implements `ports.Trainer`.

    Args:
        channel: Channel from `common.channel.open_channel`. The client does not close the channel.
    """

    def __init__(self, channel: grpc.Channel) -> None:
        self._stub = trainer_pb2_grpc.TrainerServiceStub(channel)

    def check(self, tenant: str, spec: RunSpec, *, path: str) -> RunSpec:
        """See `Trainer.check`."""
        request = trainer_pb2.SubmitRunRequest(spec=_message(spec), validate_only=True)
        try:
            run = self._stub.SubmitRun(request, timeout=_deadline(spec), metadata=on_behalf_of(tenant)).run
        except MeshError as error:
            violations = [
                Violation(f"{path}{one.field.removeprefix('spec')}", one.description) for one in error.violations
            ]
            raise type(error)(error.reason, error.message, violations=violations) from error
        return RunSpec.from_json(json_format.MessageToDict(run.spec, preserving_proto_field_name=True), path=path)

    def submit(self, tenant: str, spec: RunSpec, *, request_id: str) -> str:
        """See `Trainer.submit`."""
        request = trainer_pb2.SubmitRunRequest(spec=_message(spec), request_id=request_id)
        response = self._stub.SubmitRun(request, timeout=_deadline(spec), metadata=on_behalf_of(tenant))
        return str(response.run.name)

    def label(self, tenant: str, run: str, *, name: str, tags: Mapping[str, str]) -> None:
        """See `Trainer.label`."""
        pairs = [trainer_pb2.Tag(key=key, value=value) for key, value in tags.items()]
        request = trainer_pb2.UpdateRunRequest(name=run, display_name=name, set_tags=pairs)
        self._stub.UpdateRun(request, timeout=_DEADLINE_S, metadata=on_behalf_of(tenant))

    def stop(self, tenant: str, run: str) -> None:
        """See `Trainer.stop`."""
        request = trainer_pb2.StopRunRequest(name=run)
        self._stub.StopRun(request, timeout=_DEADLINE_S, metadata=on_behalf_of(tenant))

    def checkpoint(self, tenant: str, run: str, *, directive_id: str) -> int:
        """See `Trainer.checkpoint`."""
        directive = trainer_pb2.Directive(id=directive_id, checkpoint=trainer_pb2.SaveCheckpoint())
        try:
            self._send(tenant, run, [directive])
        except FailedPrecondition as error:
            if error.reason != "RUN_ENDED":
                raise
        request = trainer_pb2.WatchRunRequest(name=run, stored_only=True)
        events = self._stub.WatchRun(request, timeout=_STREAM_S, metadata=on_behalf_of(tenant))
        steps = [one.event.checkpoint.step for one in events if one.event.HasField("checkpoint")]
        if not steps:
            raise NotFound("CHECKPOINT_NOT_FOUND", f"{run} has ended without a checkpoint", field="run")
        return int(steps[-1])

    def steer(self, tenant: str, run: str, actions: Mapping[str, Action]) -> int:
        """See `Trainer.steer`."""
        return max(self._send(tenant, run, [_directive(name, action) for name, action in actions.items()]))

    def _send(self, tenant: str, run: str, directives: Sequence[trainer_pb2.Directive]) -> Sequence[int]:
        """Sends directives, and returns the steps in which they were applied."""
        requests = [trainer_pb2.SteerRunRequest(directive=directive) for directive in directives]
        requests[0].name, requests[0].answers_only = run, True
        acks = {}
        for response in self._stub.SteerRun(iter(requests), timeout=_STREAM_S, metadata=on_behalf_of(tenant)):
            ack = response.ack if response.HasField("ack") else response.event.directive
            acks[ack.directive_id] = ack
        for directive in directives:
            if directive.id not in acks:
                raise Unavailable("NO_ANSWER", f"{run} has not answered {directive.id}; send it again")
            if acks[directive.id].HasField("error"):
                error = acks[directive.id].error
                raise ERROR_CLASSES.get(error.code, Internal)(error.reason, error.message)
        return [int(acks[directive.id].applied_step) for directive in directives]

    def find_end(self, tenant: str, run: str) -> Finished:
        """See `Trainer.find_end`."""
        request = trainer_pb2.GetRunRequest(name=run)
        found = self._stub.GetRun(request, timeout=_DEADLINE_S, metadata=on_behalf_of(tenant)).run
        error = found.job.error
        return Finished(_FINAL.get(found.job.state), _metrics(found.metrics), error.reason, error.message)

    def evaluations(self, tenant: str, run: str, *, after: int, wait: bool) -> Evaluations:
        """See `Trainer.evaluations`."""
        request = trainer_pb2.WatchRunRequest(name=run, after_sequence=after, stored_only=not wait)
        timeout = None if wait else _STREAM_S
        return _Stream(self._stub.WatchRun(request, timeout=timeout, metadata=on_behalf_of(tenant)))


class _Stream:
    """Implements `ports.Evaluations`."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __iter__(self) -> Iterator[tuple[int, Evaluation | None]]:
        for response in self._call:
            event = response.event
            evaluation = None
            if event.HasField("evaluation"):
                evaluation = Evaluation(event.evaluation.epoch, _metrics(event.evaluation.metrics))
            yield event.sequence, evaluation

    def cancel(self) -> None:
        self._call.cancel()


def _message(spec: RunSpec) -> trainer_pb2.RunSpec:
    return json_format.Parse(json.dumps(spec.to_json()), trainer_pb2.RunSpec())


def _directive(directive_id: str, action: Action) -> trainer_pb2.Directive:
    if isinstance(action, Restore):
        restore = trainer_pb2.RestoreCheckpoint(step=action.step, run=action.run)
        return trainer_pb2.Directive(id=directive_id, restore=restore)
    if action.kind == "momentum":
        return trainer_pb2.Directive(id=directive_id, set_momentum=action.value)
    return trainer_pb2.Directive(id=directive_id, set_learning_rate=action.value)


def _deadline(spec: RunSpec) -> float:
    return _SUBMIT_PRIVATE_S if spec.privacy else _DEADLINE_S


def _metrics(metrics: Iterable[trainer_pb2.MetricValue]) -> dict[str, float]:
    return {metric.name: metric.value for metric in metrics}
