"""Converts between protobuf messages and domain values. Every codec uses these functions."""

from collections.abc import Iterator
from typing import Any

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from google.protobuf.unknown_fields import UnknownFieldSet

from common.database import Repeatable
from common.errors import InvalidArgument, Violation


def repeatable(method: str, request: Message, request_id: str) -> Repeatable:
    """Returns the description of a call that its caller may repeat under the same request id."""
    return Repeatable(method, request_id, request.SerializeToString(deterministic=True))


def plain_json(message: Message, *, field: str, max_bytes: int) -> dict[str, Any]:
    """Returns the JSON form of a message, with snake-case names (`preserving_proto_field_name`).

    Args:
        message: A message that describes something, such as a run spec.
        field: Path of the message in the caller's request, for errors.
        max_bytes: Maximum size of the encoded message.

    Raises:
        InvalidArgument: TOO_LARGE; UNKNOWN_FIELD if the message has a field that this server does not know; BAD_VALUE.
    """
    if (num_bytes := message.ByteSize()) > max_bytes:
        what = f"{field} has {num_bytes} bytes; at most {max_bytes} are accepted"
        raise InvalidArgument("TOO_LARGE", what, field=field)
    if unknown := list(_unknown_fields(message, field)):
        what = "this version of the service has no field with this number"
        raise InvalidArgument("UNKNOWN_FIELD", what, violations=[Violation(path, what) for path in unknown])
    try:
        return json_format.MessageToDict(message, preserving_proto_field_name=True)
    except json_format.Error as error:  # e.g. an infinite number in a Struct
        what = f"{field} contains a value that JSON cannot represent: {error}"
        raise InvalidArgument("BAD_VALUE", what, field=field) from error


def timestamp(time_us: int) -> Timestamp:
    """Converts a time in UTC microseconds since the epoch to a message."""
    message = Timestamp()
    message.FromMicroseconds(time_us)
    return message


def enum_word(enum: EnumTypeWrapper, number: int) -> str:
    """Converts an enum value to the domain's word for it, e.g. `MODALITY_TEXT` to `text`.

    Returns:
        The word; empty for `_UNSPECIFIED` and for numbers that this version does not know.
    """
    if number not in enum.values() or number == enum.values()[0]:
        return ""
    return enum.Name(number).removeprefix(_prefix(enum)).lower()


def enum_name(enum: EnumTypeWrapper, word: str) -> str:
    """Converts a word of the domain to the name of an enum value, e.g. `text` to `MODALITY_TEXT`.

    The constructor of a message accepts the name of an enum value in place of its number.
    """
    return _prefix(enum) + word.upper()


def _prefix(enum: EnumTypeWrapper) -> str:
    """Returns the prefix of the names of an enum's values. The first value is named `<PREFIX>UNSPECIFIED`."""
    return enum.keys()[0].removesuffix("UNSPECIFIED")


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
