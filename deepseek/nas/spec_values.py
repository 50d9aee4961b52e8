"""Reads the values of architecture specs from JSON, and refuses bad ones with the path of the field.

Specs come from users and over the network. Every size has a limit, and a spec is checked completely before a tensor is
allocated.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from common.errors import InvalidArgument
from common.scalars import python_value
from deepseek.trainjob import json_values

MAX_PARAMETERS = 100_000_000
"""Largest number of parameters of a network that is built from a spec."""


def joined(path: str, name: str) -> str:
    """Returns the path of a member.

    >>> joined("", "stem"), joined("stages[1]", "width")
    ('stem', 'stages[1].width')
    """
    return f"{path}.{name}" if path else name


def members(data: Any, known: Sequence[str], path: str) -> Mapping[str, Any]:
    """Returns an object that has exactly the known members.

    Raises:
        InvalidArgument: BAD_VALUE if the value is not an object; UNKNOWN_FIELD or MISSING_FIELD at the member.
    """
    if not isinstance(data, Mapping):
        raise InvalidArgument("BAD_VALUE", f"expected an object, found {type(data).__name__}", field=path)
    for name in data:
        if name not in known:
            message = f"unknown field {str(name)[:80]!r}; known: {', '.join(known)}"
            raise InvalidArgument("UNKNOWN_FIELD", message, field=joined(path, str(name)[:80]))
    for name in known:
        if name not in data:
            raise InvalidArgument("MISSING_FIELD", f"the field {name!r} is missing", field=joined(path, name))
    return data


def whole(value: Any, path: str, low: int, high: int, *, odd: bool = False) -> int:
    """Returns a whole number from `low` to `high`. A float without a fractional part is converted.

    Args:
        value: Decoded JSON value.
        path: Path of the value, for error messages.
        low: Smallest number that is accepted.
        high: Largest number that is accepted.
        odd: Whether only odd numbers are accepted.

    Raises:
        InvalidArgument: BAD_VALUE.
    """
    number = python_value(value)
    if isinstance(number, float) and number.is_integer():
        number = int(number)
    is_whole = isinstance(number, int) and not isinstance(number, bool)
    if not is_whole or not low <= number <= high or (odd and number % 2 == 0):
        kind = "an odd number" if odd else "a whole number"
        message = f"found {str(value)[:80]!r}; use {kind} from {low} to {high}"
        raise InvalidArgument("BAD_VALUE", message, field=path)
    return int(number)


def flag(value: Any, path: str) -> bool:
    """Returns true or false; raises InvalidArgument, BAD_VALUE, for any other value."""
    return json_values.boolean(value, path)


def one_of(value: Any, path: str, known: Sequence[str]) -> str:
    """Returns one of the known words.

    Raises:
        InvalidArgument: BAD_VALUE; the message lists the known words.
    """
    if not isinstance(value, str) or value not in known:
        message = f"found {str(value)[:80]!r}; use one of: {', '.join(known)}"
        raise InvalidArgument("BAD_VALUE", message, field=path)
    return value


def elements(value: Any, path: str, most: int) -> Sequence[tuple[int, Any]]:
    """Returns the elements of a list, with their indices.

    Raises:
        InvalidArgument: BAD_VALUE if the value is not a list of 1 to `most` elements.
    """
    found = json_values.items(value, path)
    if not 1 <= len(found) <= most:
        raise InvalidArgument("BAD_VALUE", f"found {len(found)} elements; use 1 to {most}", field=path)
    return found


def check_size(num_parameters: int, path: str) -> None:
    """Checks that a network is not too large to build.

    Raises:
        InvalidArgument: BAD_VALUE.
    """
    if num_parameters > MAX_PARAMETERS:
        message = f"the network would have {num_parameters:,} parameters; at most {MAX_PARAMETERS:,} are allowed"
        raise InvalidArgument("BAD_VALUE", message, field=path)
