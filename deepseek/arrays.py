"""Converts lists, NumPy arrays and tensors on any device to NumPy arrays. Does not import torch."""

from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import InvalidArgument


def as_array(given: Any, *, reason: str, field: str) -> npt.NDArray[Any]:
    """Converts values to a NumPy array, which may share memory with them.

    Args:
        given: Numbers or strings, as a list, an array or a tensor.
        reason: Reason code of the error that is raised if the values cannot be converted.
        field: Path of the values in the caller's request.

    Raises:
        InvalidArgument: The values are a ragged list, or have a type that NumPy lacks.
    """
    try:
        return np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
    except (ValueError, TypeError) as error:
        raise InvalidArgument(reason, f"{field} is not an array of numbers: {error}", field=field) from error
