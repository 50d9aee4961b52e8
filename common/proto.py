"""Converts between protobuf messages and domain values. Every codec uses these functions."""

from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from common.database import Repeatable


def repeatable(method: str, request: Message, request_id: str) -> Repeatable:
    """Returns the description of a call that its caller may repeat under the same request id."""
    return Repeatable(method, request_id, request.SerializeToString(deterministic=True))


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
