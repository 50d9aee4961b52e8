"""Converts numbers from NumPy, torch and pandas to Python numbers, without importing these libraries."""

from typing import Any

from common.errors import InvalidArgument


def python_value(value: Any) -> Any:
    """Converts a scalar, array or tensor to a Python number, string or nested list; returns other values unchanged."""
    return value.tolist() if hasattr(value, "tolist") else value


def whole_number(value: Any, field: str) -> int:
    """Converts an integer of any library to a Python int.

    Raises:
        InvalidArgument: BAD_VALUE, with the name of the field, if the value is not an integer.
    """
    number = python_value(value)
    if isinstance(number, bool) or not isinstance(number, int):
        raise InvalidArgument("BAD_VALUE", f"{field} is {str(value)[:80]}; it must be a whole number", field=field)
    return number


def real_number(value: Any, field: str) -> float:
    """Converts a real number of any library to a Python float.

    Raises:
        InvalidArgument: BAD_VALUE, with the name of the field, if the value is not a real number.
    """
    number = python_value(value)
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InvalidArgument("BAD_VALUE", f"{field} is {str(value)[:80]}; it must be a number", field=field)
    return float(number)
