"""Type checks for decoded JSON: each function takes a value and its path, and rejects values of the wrong type.

A rejected value raises InvalidArgument with that path: UNKNOWN_FIELD for an unknown member, otherwise BAD_VALUE. NumPy
values are treated like the corresponding Python values.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from common.errors import InvalidArgument, Violation
from common.scalars import python_value


def check_keys(data: Any, known: Mapping[str, Any], path: str) -> None:
    """Checks that a value is an object whose members are all known. The error lists every unknown member."""
    if not isinstance(data, Mapping):
        raise InvalidArgument("BAD_VALUE", f"expected an object, found {type(data).__name__}", field=path)
    unknown = [
        Violation(f"{path}.{key}", f"unknown field {key!r}; known: {', '.join(known)}")
        for key in data
        if key not in known
    ]
    if unknown:
        raise InvalidArgument("UNKNOWN_FIELD", unknown[0].description, violations=unknown)


def plain(given: Any, path: str) -> Any:
    """Returns a JSON value, with NumPy numbers and arrays converted to Python numbers and lists."""
    match value := python_value(given):
        case Mapping():
            return {str(key): plain(item, f"{path}.{key}") for key, item in value.items()}
        case list() | tuple():
            return [plain(item, f"{path}[{i}]") for i, item in enumerate(value)]
        case None | bool() | int() | float() | str():
            return value
    raise InvalidArgument("BAD_VALUE", f"a value of type {type(given).__name__} cannot be written as JSON", field=path)


def items(value: Any, path: str) -> Sequence[tuple[int, Any]]:
    """Returns the elements of a list with their indices."""
    value = python_value(value)
    if not isinstance(value, list | tuple):
        raise InvalidArgument("BAD_VALUE", f"expected a list, found {type(value).__name__}", field=path)
    return list(enumerate(value))


def text(value: Any, path: str) -> str:
    """Checks that a value is text, and returns it."""
    if not isinstance(value, str):
        raise InvalidArgument("BAD_VALUE", f"expected text, found {type(value).__name__}", field=path)
    return value


def boolean(value: Any, path: str) -> bool:
    """Checks that a value is true or false, and returns it."""
    if not isinstance(value, bool):
        raise InvalidArgument("BAD_VALUE", f"expected true or false, found {value!r}", field=path)
    return value


def integer(value: Any, path: str) -> int:
    """Converts an integer, or text that holds a decimal integer, to an int."""
    value = python_value(value)
    # Protobuf's JSON form writes 64-bit integers as text.
    if isinstance(value, str) and value.removeprefix("-").isdecimal():
        return int(value)
    if isinstance(value, bool) or not isinstance(value, int):
        raise InvalidArgument("BAD_VALUE", f"expected an integer, found {value!r}", field=path)
    return value


def number(value: Any, path: str) -> float:
    """Converts a number to a float."""
    value = python_value(value)
    # Protobuf's JSON form writes these three values as text. `RunSpec.check` rejects them later, with a message that
    # names the field.
    if value in ("NaN", "Infinity", "-Infinity"):
        return float(value)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InvalidArgument("BAD_VALUE", f"expected a number, found {value!r}", field=path)
    return float(value)


def normalized(value: Any) -> Any:
    """Returns a JSON value with whole floating-point numbers converted to integers."""
    match value:
        case Mapping():
            return {key: normalized(item) for key, item in value.items()}
        case list() | tuple():
            return [normalized(item) for item in value]
        case float() if value.is_integer():
            return int(value)
    return value
