"""Messages out of descriptors: a valid one with some fields changed to what nobody means well by.

Starting from messages that a server takes leads deeper than inventing them whole, which mostly ends at the first name.
"""

from collections.abc import Sequence
from typing import Any

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.message import Message
from hypothesis import strategies as st

MAX_CHANGES = 4
MAX_ITEMS = 4
MAX_DEPTH = 4

HOSTILE_TEXTS = (
    "",
    " ",
    "\0",
    "a\0b",
    "\n",
    "..",
    "../../etc/passwd",
    "/",
    "%00",
    "${PATH}",
    "' OR 1=1 --",
    "{}",
    "null",
    "NaN",
    "-1",
    "1e999",
    "18446744073709551616",
    "\u202eabc",
    "e\u0301",
    "\U0001f40b",
    "\ufffe",
    "a" * 63,
    "a" * 64,
    "a" * 256,
    "é" * 5000,
    "x" * 100_000,
    "datasets/",
    "datasets/d/versions/0",
    "datasets/d/versions/-1",
    "datasets/d/versions/01",
    "datasets/d/versions/9223372036854775808",
    "datasets/d/versions/99999999999999999999999",
    "models/m/versions/latest",
    "models/../../m",
    "models/m/aliases/latest",
    "uploads/" + "0" * 32,
    "runs/" + "f" * 32,
    "jobs/" + "f" * 32,
)
_INTEGERS = (0, 1, -1, 2, 7, 63, 64, 1000, 1 << 16, (1 << 31) - 1, -(1 << 31), 1 << 31, (1 << 32) - 1, 1 << 32)
_LARGE = ((1 << 53) + 1, (1 << 63) - 1, -(1 << 63), 1 << 63, (1 << 64) - 1)
_RANGES = {
    FieldDescriptor.CPPTYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.CPPTYPE_INT64: (-(1 << 63), (1 << 63) - 1),
    FieldDescriptor.CPPTYPE_UINT32: (0, (1 << 32) - 1),
    FieldDescriptor.CPPTYPE_UINT64: (0, (1 << 64) - 1),
    FieldDescriptor.CPPTYPE_ENUM: (-(1 << 31), (1 << 31) - 1),
}


def texts(known: Sequence[str]) -> st.SearchStrategy[str]:
    """Hostile texts, and some that mean something to the server."""
    return st.sampled_from((*HOSTILE_TEXTS, *known)) | st.text(st.characters(codec="utf-8"), max_size=20)


def scalars(field: FieldDescriptor, known: Sequence[str]) -> st.SearchStrategy[Any]:
    """Values of a field that is no message."""
    kind = field.cpp_type
    if kind in _RANGES:
        least, most = _RANGES[kind]
        chosen = st.sampled_from([value for value in (*_INTEGERS, *_LARGE) if least <= value <= most])
        return chosen | st.integers(least, most)
    if kind == FieldDescriptor.CPPTYPE_BOOL:
        return st.booleans()
    if kind == FieldDescriptor.CPPTYPE_FLOAT:
        return st.floats(width=32)
    if kind == FieldDescriptor.CPPTYPE_DOUBLE:
        return st.floats()
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=40) | st.sampled_from([bytes(4096), b"\xff" * 255, b"\x89PNG\r\n\x1a\n"])
    return texts(known)


@st.composite
def changed(draw: st.DrawFn, valid: Message, known: Sequence[str]) -> Message:
    """A copy of a valid message with up to MAX_CHANGES changes."""
    message = type(valid)()
    message.CopyFrom(valid)
    if message.DESCRIPTOR.fields:
        for _ in range(draw(st.integers(0, MAX_CHANGES))):
            _change(draw, message, known)
    return message


def _change(draw: st.DrawFn, message: Message, known: Sequence[str]) -> None:
    """Changes one field of a message, or of one somewhere in it."""
    places = _messages_in(message)
    place = places[draw(st.integers(0, len(places) - 1))]
    _set(draw, place, draw(st.sampled_from(list(place.DESCRIPTOR.fields))), known, depth=0)


def _messages_in(message: Message) -> list[Message]:
    """A message and all that it holds, those without fields excepted."""
    found = [message]
    for field, value in message.ListFields():
        if field.message_type is None:
            continue
        if _is_map(field):
            children = list(value.values()) if field.message_type.fields_by_name["value"].message_type else []
        else:
            children = list(value) if field.is_repeated else [value]
        for child in children:
            found += _messages_in(child)
    return [one for one in found if one.DESCRIPTOR.fields]


def _set(draw: st.DrawFn, message: Message, field: FieldDescriptor, known: Sequence[str], *, depth: int) -> None:
    if draw(st.integers(0, 5)) == 0:
        message.ClearField(field.name)
    elif _is_map(field):
        _put(draw, getattr(message, field.name), field.message_type, known, depth)
    elif field.is_repeated:
        values = getattr(message, field.name)
        if len(values) and draw(st.booleans()):
            values.append(values[0]) if field.message_type is None else values.add().CopyFrom(values[0])
            return
        for _ in range(draw(st.integers(1, MAX_ITEMS))):
            if field.message_type is None:
                values.append(draw(scalars(field, known)))
            else:
                _fill(draw, values.add(), known, depth + 1)
    elif field.message_type is not None:
        child = getattr(message, field.name)
        child.SetInParent()
        _fill(draw, child, known, depth + 1)
    else:
        setattr(message, field.name, draw(scalars(field, known)))


def _put(draw: st.DrawFn, values: Any, entry: Descriptor, known: Sequence[str], depth: int) -> None:
    key_field, value_field = entry.fields_by_name["key"], entry.fields_by_name["value"]
    key = draw(scalars(key_field, known))
    if value_field.message_type is None:
        values[key] = draw(scalars(value_field, known))
    else:
        _fill(draw, values[key], known, depth + 1)


def _fill(draw: st.DrawFn, message: Message, known: Sequence[str], depth: int) -> None:
    """Sets some fields of a new message."""
    if depth >= MAX_DEPTH:
        return
    for field in message.DESCRIPTOR.fields:
        if draw(st.booleans()):
            _set(draw, message, field, known, depth=depth)


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


@st.composite
def damaged(draw: st.DrawFn, valid: bytes) -> bytes:
    """Bytes of anything: random ones, or valid ones with some changed, cut off or repeated."""
    if not valid or draw(st.integers(0, 3)) == 0:
        return draw(st.binary(max_size=200))
    data = bytearray(valid)
    for _ in range(draw(st.integers(1, 8))):
        match draw(st.integers(0, 3)):
            case 0 | 1:
                data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
            case 2:
                start = draw(st.integers(0, len(data) - 1))
                data[start:start] = data[start : start + draw(st.integers(1, 40))]
            case 3 if len(data) > 1:
                del data[draw(st.integers(1, len(data) - 1)) :]
    return bytes(data)
