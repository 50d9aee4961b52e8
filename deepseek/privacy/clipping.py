"""Clips contributions, so that one member changes a sum by a bounded amount."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import InvalidArgument
from common.scalars import python_value

_MARGIN = 1.0 - 1e-12


def l2_norm(arrays: Mapping[str, npt.NDArray[Any]]) -> float:
    """Returns the L2 norm of all elements of all arrays together, computed in float64.

    Raises:
        InvalidArgument: NOT_FINITE, with the name of the array, if an element is NaN or infinite.
    """
    largest = 0.0
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            message = f"array {name!r} contains NaN or infinity; a contribution that is not finite cannot be clipped"
            raise InvalidArgument("NOT_FINITE", message, field=name)
        largest = max(largest, float(np.abs(array).max(initial=0.0)))
    if largest == 0:
        return 0.0
    # Divided by the largest element, so that squares of float64 numbers neither overflow nor vanish.
    squares = (float(np.square(np.asarray(array, np.float64) / largest).sum()) for array in arrays.values())
    return largest * math.sqrt(math.fsum(squares))


def clip(arrays: Mapping[str, npt.NDArray[Any]], max_norm: float) -> dict[str, npt.NDArray[np.float64]]:
    """Scales a contribution down to an L2 norm of at most `max_norm`, over all its arrays together.

    The bound also holds after rounding. Contributions below it, and zeros, are returned with the same values.

    Args:
        arrays: Contribution of one member: real numbers of any type and shape.
        max_norm: Clipping norm C, positive and finite.

    Returns:
        float64 copies.

    Raises:
        InvalidArgument: NOT_FINITE if an element is NaN or infinite: a comparison with NaN is false, so that a NaN
            would pass through unscaled. BAD_NORM if `max_norm` is not positive and finite.

    >>> {name: array.tolist() for name, array in clip({"a": np.array([3.0]), "b": np.array([4.0])}, 10.0).items()}
    {'a': [3.0], 'b': [4.0]}
    """
    bound = python_value(max_norm)
    if isinstance(bound, bool) or not isinstance(bound, int | float) or not 0 < bound < math.inf:
        message = f"the clipping norm is {str(max_norm)[:80]}; it must be a positive finite number"
        raise InvalidArgument("BAD_NORM", message, field="max_norm")
    norm = l2_norm(arrays)
    # The margin exceeds the rounding errors of the norm and of the products.
    scale = bound / norm * _MARGIN if norm > bound * _MARGIN else 1.0
    return {name: np.asarray(array, np.float64) * scale for name, array in arrays.items()}
