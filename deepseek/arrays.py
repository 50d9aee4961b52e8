"""Arrays of whatever a caller of the library has: lists, NumPy arrays, tensors on any device. It imports no torch."""

from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import InvalidArgument


def as_array(given: Any, *, reason: str, field: str) -> npt.NDArray[Any]:
    """Returns an array with the given values, which may share memory with them.

    Args:
        given: Numbers or texts.
        reason: Of the error.
        field: Where they stand in the caller's request.

    Raises:
        InvalidArgument: They are ragged, or of a type that NumPy does not have.
    """
    try:
        return np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
    except (ValueError, TypeError) as error:
        raise InvalidArgument(reason, f"{field} is no array of numbers: {error}", field=field) from error
