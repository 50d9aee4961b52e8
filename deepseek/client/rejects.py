"""Rejected samples as messages of the ingest protocol."""

from typing import Any

from deepseek.data.rejected import Rejected
from protos.ingest.v1 import ingest_pb2

MAX_VALUE_BYTES = (64 << 20) - (64 << 10)
"""Maximum size of the values of a rejected sample. More would not fit into a message."""


def rejected_to_proto(rejected: Rejected) -> ingest_pb2.Sample:
    """Returns a rejected sample as a message. Its values are left out if they do not fit into a message.

    Key, split and place may hold any text: characters that are not valid Unicode are escaped.
    """
    message = ingest_pb2.Sample(
        key=_text(rejected.key),
        split=_text(rejected.split),
        place=_text(rejected.place) if rejected.place != rejected.key else "",
        rejection=ingest_pb2.Rejection(
            reason=rejected.reason, message=_text(rejected.message), field=_text(rejected.field)
        ),
    )
    for name, items in rejected.values.items():
        message.fields.add(field=_text(name), values=map(_value, items))
    if message.ByteSize() > MAX_VALUE_BYTES:
        del message.fields[:]
    return message


def rejected_from_proto(message: ingest_pb2.Sample) -> Rejected:
    """Returns a received sample of a quarantine."""
    found = message.rejection
    values = {one.field: [_from_value(value) for value in one.values] for one in message.fields}
    own = f"samples[{message.key}]."
    return Rejected(
        message.key,
        message.place or message.key,
        found.reason,
        found.message.removeprefix(own),
        found.field,
        message.split,
        values,
        found.position,
    )


def _text(text: str) -> str:
    return text.encode(errors="backslashreplace").decode()


def _value(value: Any) -> ingest_pb2.Value:
    match value:
        case bytes():
            return ingest_pb2.Value(data=value)
        case str():
            return ingest_pb2.Value(text=value)
        case int():
            return ingest_pb2.Value(integer=value)
        case float():
            return ingest_pb2.Value(number=value)
    return ingest_pb2.Value()


def _from_value(value: ingest_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    return None if kind is None else getattr(value, kind)
