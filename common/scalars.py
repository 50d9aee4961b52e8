"""Converts numbers of other libraries (NumPy, torch, pandas) to Python's. Imports none of them."""

from typing import Any

from common.errors import InvalidArgument


def python_value(value: Any) -> Any:
    """Returns a scalar, array or tensor as Python's number, text or (nested) list; other values unchanged."""
    return value.tolist() if hasattr(value, "tolist") else value


def whole_number(value: Any, field: str) -> int:
    """Returns an integer of any library as a Python int.

    Raises:
        InvalidArgument: BAD_VALUE at `field`.
    """
    number = python_value(value)
    if isinstance(number, bool) or not isinstance(number, int):
        raise InvalidArgument("BAD_VALUE", f"{field} is {str(value)[:80]}; it must be a whole number", field=field)
    return number


def real_number(value: Any, field: str) -> float:
    """Returns a number of any library as a float.

    Raises:
        InvalidArgument: BAD_VALUE at `field`.
    """
    number = python_value(value)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InvalidArgument("BAD_VALUE", f"{field} is {str(value)[:80]}; it must be a number", field=field)
    return float(number)
