"""Arrays from lists, NumPy arrays and tensors on any device. Does not import torch."""

from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import InvalidArgument


def as_array(given: Any, *, reason: str, field: str) -> npt.NDArray[Any]:
    """Returns an array with the given values, which may share memory with them.

    Args:
        given: Numbers or texts.
        reason: Reason of the error.
        field: Path of the values in the caller's request.

    Raises:
        InvalidArgument: The values are ragged, or of a type that NumPy does not have.
    """
    try:
        return np.asarray(given.detach().cpu() if hasattr(given, "detach") else given)
    except (ValueError, TypeError) as error:
        raise InvalidArgument(reason, f"{field} is not an array of numbers: {error}", field=field) from error
