"""Validates the ids that marks in text and images carry."""

from typing import Any

from common.errors import InvalidArgument
from common.scalars import python_value

ID_BITS = 48


def check_id(given: Any) -> int:
    """Returns an id as a Python integer.

    Raises:
        InvalidArgument: BAD_ID if the value is not an integer from 0 to 2^48 - 1.
    """
    message = python_value(given)
    if isinstance(message, bool) or not isinstance(message, int) or not 0 <= message < 1 << ID_BITS:
        text = f"{str(given)[:80]} is not an id; ids are integers from 0 to 2^{ID_BITS} - 1"
        raise InvalidArgument("BAD_ID", text, field="id")
    return message
