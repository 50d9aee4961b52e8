"""Converts the trainer's values between protobuf and the domain."""

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.struct_pb2 import Struct
from google.protobuf.unknown_fields import UnknownFieldSet

from common.artifacts import Artifact
from common.artifacts.proto import to_proto
from common.errors import InvalidArgument, Violation
from common.jobs import JobState
from common.jobs.job import JobError
from common.jobs.proto import error_to_proto, job_to_proto
from common.paths import without_paths
from common.proto import timestamp
from deepseek.trainjob.runspec import RunSpec
from protos.job.v1 import job_pb2
from protos.trainer.v1 import trainer_pb2 as pb
from services.trainer.external_runs import End, LoggedStep
from services.trainer.labels import Labels
from services.trainer.run import Run
from services.trainer.run_history import RunEvent

MAX_SPEC_BYTES = 32 << 10
"""Maximum size of an encoded run spec. It is small enough that a page of 1000 runs fits in one message."""


def read_spec(message: pb.RunSpec) -> RunSpec:
    """Converts a message to a run spec.

    Raises:
        InvalidArgument: UNKNOWN_FIELD if the message has a field that this server does not know; BAD_VALUE; TOO_LARGE.
    """
    if (num_bytes := message.ByteSize()) > MAX_SPEC_BYTES:
        raise InvalidArgument(
            "TOO_LARGE", f"the spec has {num_bytes} bytes; at most {MAX_SPEC_BYTES} are accepted", field="spec"
        )
    unknown = list(_unknown_fields(message, "spec"))
    if unknown:
        what = "this version of the trainer has no field with this number"
        raise InvalidArgument("UNKNOWN_FIELD", what, violations=[Violation(path, what) for path in unknown])
    try:
        data = json_format.MessageToDict(message, preserving_proto_field_name=True)
    except json_format.Error as error:  # e.g. an infinite number in the params of a component
        raise InvalidArgument(
            "BAD_VALUE", f"the spec contains a value that JSON cannot represent: {error}", field="spec"
        ) from error
    return RunSpec.from_json(data)


def run_to_proto(run: Run) -> pb.Run:
    """Returns a run as a message."""
    return pb.Run(
        name=run.name,
        spec=None if run.is_external else json_format.ParseDict(run.spec.to_json(), pb.RunSpec()),
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
    )


def read_parameters(message: Struct) -> Mapping[str, Any]:
    """Converts the parameters of an external run.

    Raises:
        InvalidArgument: TOO_LARGE.
    """
    if (num_bytes := message.ByteSize()) > MAX_SPEC_BYTES:
        raise InvalidArgument(
            "TOO_LARGE",
            f"the parameters have {num_bytes} bytes; at most {MAX_SPEC_BYTES} are accepted",
            field="parameters",
        )
    try:
        return json_format.MessageToDict(message)
    except json_format.Error as error:  # an infinite number
        what = f"the parameters contain a value that JSON cannot represent: {error}"
        raise InvalidArgument("BAD_VALUE", what, field="parameters") from error


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
        case "state":
            state = f"JOB_STATE_{values['state']}"
            error = error_to_proto(JobError(**values["error"])) if "error" in values else None
            message.state.CopyFrom(pb.StateEvent(state=state, error=error))
    return message


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


def _unknown_fields(message: Message, path: str) -> Iterator[str]:
    """Yields the path of each unknown field of a message, at any depth. The path ends with the field number."""
    for unknown in UnknownFieldSet(message):  # type: ignore[attr-defined]  # the stubs lack it
        yield f"{path}.{unknown.field_number}"
    for field, value in message.ListFields():
        if field.type != FieldDescriptor.TYPE_MESSAGE:
            continue
        for place, part in _parts(field, value):
            yield from _unknown_fields(part, f"{path}.{place}")


def _parts(field: FieldDescriptor, value: Any) -> Iterator[tuple[str, Message]]:
    kind = field.message_type
    assert kind is not None
    if kind.GetOptions().map_entry:
        if kind.fields_by_name["value"].type == FieldDescriptor.TYPE_MESSAGE:
            yield from ((f"{field.name}.{key}", value[key]) for key in value)
    elif field.is_repeated:
        yield from ((f"{field.name}[{i}]", part) for i, part in enumerate(value))
    else:
        yield field.name, value
