"""Protobuf to domain and back."""

from collections.abc import Iterator, Mapping
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.unknown_fields import UnknownFieldSet

from common.artifacts import Artifact
from common.artifacts.proto import to_proto
from common.errors import InvalidArgument, Violation
from common.jobs.job import JobError
from common.jobs.proto import error_to_proto, job_to_proto
from common.paths import without_paths
from deepseek.training.runspec import RunSpec
from protos.trainer.v1 import trainer_pb2
from services.trainer.runs import Run, RunEvent

MAX_SPEC_BYTES = 32 << 10
"""Largest run spec as a message; so a page of a thousand runs fits a message."""


def read_spec(message: trainer_pb2.RunSpec) -> RunSpec:
    """Reads a spec.

    Raises:
        InvalidArgument: UNKNOWN_FIELD if it has a field that this version does not know; BAD_VALUE; TOO_LARGE.
    """
    if (num_bytes := message.ByteSize()) > MAX_SPEC_BYTES:
        raise InvalidArgument("TOO_LARGE", f"{num_bytes} bytes; at most {MAX_SPEC_BYTES} are taken", field="spec")
    unknown = list(_unknown_fields(message, "spec"))
    if unknown:
        what = "this version of the trainer does not know the field with this number"
        raise InvalidArgument("UNKNOWN_FIELD", what, violations=[Violation(path, what) for path in unknown])
    try:
        data = json_format.MessageToDict(message, preserving_proto_field_name=True)
    except json_format.Error as error:  # an infinite number in a component's params
        raise InvalidArgument("BAD_VALUE", f"the spec holds a value that JSON cannot: {error}", field="spec") from error
    return RunSpec.from_json(data)


def run_to_proto(run: Run) -> trainer_pb2.Run:
    """Writes a run."""
    return trainer_pb2.Run(
        name=run.name,
        spec=json_format.ParseDict(run.spec.to_json(), trainer_pb2.RunSpec()),
        job=job_to_proto(run.job),
        fingerprint=run.fingerprint,
        checkpoint=to_proto(run.checkpoint) if run.checkpoint else None,
        metrics=_metrics(run.metrics),
        train_s=run.train_s,
        num_threads=run.num_threads or 0,
    )


def event_to_proto(event: RunEvent) -> trainer_pb2.RunEvent:
    """Writes one entry of a run's history."""
    message = trainer_pb2.RunEvent(sequence=event.sequence, time=_timestamp(event.time_us))
    values = dict(event.payload)
    match event.kind:
        case "step":
            message.step.CopyFrom(trainer_pb2.StepEvent(**{**values, "metrics": _metrics(values["metrics"])}))
        case "evaluation":
            message.evaluation.CopyFrom(
                trainer_pb2.EvaluationEvent(**{**values, "metrics": _metrics(values["metrics"])})
            )
        case "checkpoint":
            artifact = to_proto(Artifact.from_json(values["artifact"]))
            message.checkpoint.CopyFrom(trainer_pb2.CheckpointEvent(step=values["step"], artifact=artifact))
        case "attempt":
            message.attempt.CopyFrom(trainer_pb2.AttemptEvent(**values))
        case "warning":
            shown = {**values, "message": without_paths(values["message"])}
            message.warning.CopyFrom(trainer_pb2.WarningEvent(**shown))
        case "precision":
            message.precision.CopyFrom(_precision(values))
        case "state":
            state = f"JOB_STATE_{values['state']}"
            error = error_to_proto(JobError(**values["error"])) if "error" in values else None
            message.state.CopyFrom(trainer_pb2.StateEvent(state=state, error=error))
    return message


def _precision(values: Mapping[str, Any]) -> trainer_pb2.PrecisionEvent:
    return trainer_pb2.PrecisionEvent(
        precision=f"PRECISION_{values['precision'].upper()}",
        reason=f"PRECISION_REASON_{values['reason'].upper()}",
        ratios=[
            trainer_pb2.PrecisionRatio(precision=f"PRECISION_{name.upper()}", ratio=ratio)
            for name, ratio in values["ratios"].items()
        ],
        instruction_set=values["instruction_set"],
    )


def _metrics(values: Mapping[str, float]) -> list[trainer_pb2.MetricValue]:
    return [trainer_pb2.MetricValue(name=name, value=value) for name, value in values.items()]


def _timestamp(time_us: int) -> Timestamp:
    return Timestamp(seconds=time_us // 1_000_000, nanos=time_us % 1_000_000 * 1000)


def _unknown_fields(message: Message, path: str) -> Iterator[str]:
    """Paths of the fields of a message, at any depth, that its type does not have; they are named by number."""
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
