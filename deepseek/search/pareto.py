"""Pareto fronts."""

from collections.abc import Sequence

import numpy as np


def pareto_front(losses: Sequence[Sequence[float]]) -> list[int]:
    """Returns the indices of the points that no other point dominates, in ascending order.

    A point dominates another one if it is at most as large in every coordinate, and smaller in at least one. Of equal
    points, all are on the front.

    >>> pareto_front([(1.0, 3.0), (2.0, 2.0), (3.0, 3.0), (2.0, 2.0)])
    [0, 1, 3]

    Args:
        losses: Coordinates of the points; none is NaN.
    """
    if not losses:
        return []
    points_NM = np.asarray(losses, float)
    # In lexicographic order, a point can only be dominated by earlier ones.
    order = np.lexsort(points_NM.T[::-1])
    front_FM = np.empty_like(points_NM)
    chosen: list[int] = []
    for index in order:
        point_M = points_NM[index]
        earlier_FM = front_FM[: len(chosen)]
        if not ((earlier_FM <= point_M).all(1) & (earlier_FM < point_M).any(1)).any():
            front_FM[len(chosen)] = point_M
            chosen.append(int(index))
    return sorted(chosen)
