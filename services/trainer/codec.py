"""Converts the trainer's values between protobuf and the domain."""

from collections.abc import Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from common.artifacts import Artifact
from common.artifacts.proto import to_proto
from common.errors import InvalidArgument
from common.jobs import JobState
from common.jobs.history import RunEvent
from common.jobs.job import JobError
from common.jobs.proto import error_to_proto, job_to_proto
from common.paths import without_paths
from common.proto import plain_json, timestamp
from deepseek.steering.directive import Directive
from deepseek.trainjob.runspec import RunSpec
from protos.job.v1 import job_pb2
from protos.privacy.v1 import privacy_pb2
from protos.trainer.v1 import trainer_pb2 as pb
from services.trainer.external_runs import End, LoggedStep
from services.trainer.labels import Labels
from services.trainer.run import Run

MAX_SPEC_BYTES = 32 << 10
"""Maximum size of an encoded run spec. It is small enough that a page of 1000 runs fits in one message."""


def read_spec(message: pb.RunSpec) -> RunSpec:
    """Converts a message to a run spec.

    Raises:
        InvalidArgument: UNKNOWN_FIELD if the message has a field that this server does not know; BAD_VALUE; TOO_LARGE.
    """
    return RunSpec.from_json(plain_json(message, field="spec", max_bytes=MAX_SPEC_BYTES))


def spec_to_proto(spec: RunSpec) -> pb.RunSpec:
    """Returns a run spec as a message."""
    return json_format.ParseDict(spec.to_json(), pb.RunSpec())


def run_to_proto(run: Run) -> pb.Run:
    """Returns a run as a message."""
    return pb.Run(
        name=run.name,
        spec=None if run.is_external else spec_to_proto(run.spec),
        job=job_to_proto(run.job),
        fingerprint=run.fingerprint,
        checkpoint=to_proto(run.checkpoint) if run.checkpoint else None,
        metrics=_metrics(run.metrics),
        train_s=run.train_s,
        num_threads=run.num_threads or 0,
        best_step=run.best_step,
        best_epoch=run.best_epoch,
        display_name=run.display_name,
        note=run.note,
        tags=[pb.Tag(key=key, value=value) for key, value in run.tags.items()],
        external=run.is_external,
        parameters=json_format.ParseDict(dict(run.parameters), Struct()) if run.parameters else None,
        privacy=_privacy(run),
    )


def read_parameters(message: Struct) -> Mapping[str, Any]:
    """Converts the parameters of an external run.

    Raises:
        InvalidArgument: TOO_LARGE or BAD_VALUE.
    """
    return plain_json(message, field="parameters", max_bytes=MAX_SPEC_BYTES)


def read_labels(message: pb.UpdateRunRequest | pb.CreateExternalRunRequest) -> Labels:
    """Converts the display name, note and tags of a request."""
    if isinstance(message, pb.CreateExternalRunRequest):
        return Labels(message.display_name, message.note, [(tag.key, tag.value) for tag in message.tags])
    return Labels(
        message.display_name if message.HasField("display_name") else None,
        message.note if message.HasField("note") else None,
        [(tag.key, tag.value) for tag in message.set_tags],
        set(message.remove_tags),
    )


def read_steps(message: pb.LogRunRequest) -> tuple[list[LoggedStep], End | None]:
    """Converts the figures of a request, and the end of the run if the request contains one."""
    steps = [LoggedStep(one.step, {metric.name: metric.value for metric in one.metrics}) for one in message.steps]
    if not message.end:
        return steps, None
    if message.end not in job_pb2.JobState.values():
        raise InvalidArgument("BAD_VALUE", f"unknown job state {message.end}", field="end")
    return steps, End(JobState[job_pb2.JobState.Name(message.end).removeprefix("JOB_STATE_")], message.error)


def read_directive(message: pb.Directive) -> Directive:
    """Converts a directive.

    Raises:
        InvalidArgument: TOO_LARGE, UNKNOWN_FIELD or BAD_VALUE.
    """
    action = message.WhichOneof("action") or ""
    value: Any = None
    match action:
        case "set_learning_rate" | "set_momentum":
            value = getattr(message, action)
        case "set_policy":
            given = plain_json(message.set_policy, field="directive.set_policy", max_bytes=MAX_SPEC_BYTES)
            value = {"name": given.get("name", ""), "params": given.get("params", {})}
        case "restore":
            value = {"step": message.restore.step, "run": message.restore.run}
    return Directive(message.id, action, value, message.apply_at_step, message.expire_after_s)


def ack_to_proto(ack: Mapping[str, Any]) -> pb.DirectiveAck:
    """Returns the answer to a directive as a message."""
    values = {name: pb.SteeredValues(**ack[name]) for name in ("old", "new") if ack[name]}
    return pb.DirectiveAck(
        directive_id=ack["directive_id"],
        action=ack["action"],
        applied_step=ack["applied_step"],
        late=ack["late"],
        apply_time=timestamp(ack["apply_us"]),
        error=error_to_proto(JobError(**ack["error"])) if ack["error"] else None,
        **values,
    )


def event_to_proto(event: RunEvent) -> pb.RunEvent:
    """Returns an entry of a run's history as a message."""
    message = pb.RunEvent(sequence=event.sequence, time=timestamp(event.time_us))
    values = dict(event.payload)
    match event.kind:
        case "step":
            message.step.CopyFrom(pb.StepEvent(**{**values, "metrics": _metrics(values["metrics"])}))
        case "evaluation":
            message.evaluation.CopyFrom(pb.EvaluationEvent(**{**values, "metrics": _metrics(values["metrics"])}))
        case "checkpoint":
            artifacts = {
                name: to_proto(Artifact.from_json(values[name]))
                for name in ("artifact", "best_weights")
                if values.get(name)
            }
            message.checkpoint.CopyFrom(pb.CheckpointEvent(step=values["step"], **artifacts))
        case "attempt":
            message.attempt.CopyFrom(pb.AttemptEvent(**values))
        case "warning":
            shown = {**values, "message": without_paths(values["message"])}
            message.warning.CopyFrom(pb.WarningEvent(**shown))
        case "precision":
            message.precision.CopyFrom(_precision(values))
        case "adjustment":
            old, new = (pb.SteeredValues(**values[name]) for name in ("old", "new"))
            message.adjustment.CopyFrom(
                pb.AdjustmentEvent(step=values["step"], policy=values["policy"], old=old, new=new)
            )
        case "directive":
            message.directive.CopyFrom(ack_to_proto(values))
        case "state":
            state = f"JOB_STATE_{values['state']}"
            error = error_to_proto(JobError(**values["error"])) if "error" in values else None
            message.state.CopyFrom(pb.StateEvent(state=state, error=error))
    return message


def _privacy(run: Run) -> pb.RunPrivacy | None:
    if run.spec.privacy is None or run.release is None:
        return None
    release = privacy_pb2.Release(
        noise_multiplier=run.release.noise_multiplier,
        sampling_rate=run.release.sampling_rate,
        count=run.release.count,
    )
    return pb.RunPrivacy(budget=run.spec.privacy.budget, release=release)


def _precision(values: Mapping[str, Any]) -> pb.PrecisionEvent:
    return pb.PrecisionEvent(
        precision=f"PRECISION_{values['precision'].upper()}",
        reason=f"PRECISION_REASON_{values['reason'].upper()}",
        ratios=[
            pb.PrecisionRatio(precision=f"PRECISION_{name.upper()}", ratio=ratio)
            for name, ratio in values["ratios"].items()
        ],
        instruction_set=values["instruction_set"],
    )


def _metrics(values: Mapping[str, float]) -> list[pb.MetricValue]:
    return [pb.MetricValue(name=name, value=value) for name, value in values.items()]
