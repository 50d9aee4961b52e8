"""Combines the updates of one round: weighted mean, trimmed mean and coordinate-wise median.

Sums are in float64 and in ascending order of the nodes' fingerprints, so the result does not depend on the order in
which updates arrive.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import median_low

import numpy as np
import numpy.typing as npt

from deepseek.federated.arrays import Arrays, Shapes

Means = Mapping[str, npt.NDArray[np.float64]]
"""Combined updates, by name of the array."""


@dataclass(frozen=True)
class WeightedUpdate:
    """One node's update.

    Attributes:
        node: Fingerprint of the node's key.
        arrays: New minus old parameters, all finite.
        num_examples: Number of examples that the node trained on; 1 for all updates if they have equal weights.
    """

    node: str
    arrays: Arrays
    num_examples: int = 1


def weighted_mean(
    updates: Sequence[WeightedUpdate], shapes: Shapes, weight_cap: float, max_weight_ratio: float = math.inf
) -> Means:
    """Returns the mean of updates, weighted by their numbers of examples up to a cap; zeros if there are no updates.

    The weights are those of FedAvg (McMahan et al. 2017, algorithm 1). The cap limits what a node gains by claiming to
    have many examples. It is `weight_cap`, or `max_weight_ratio` times the median of the numbers if that is less. Of
    two middle numbers, the median is the lower one, so that half of the nodes cannot raise it.

    >>> updates = [WeightedUpdate(n, {"w": np.float32([n == "a"])}, 9) for n in "abc"]
    >>> weighted_mean(updates, {"w": (1,)}, 10)["w"].round(3).tolist()
    [0.333]
    """
    in_order = sorted(updates, key=lambda update: update.node)
    cap = weight_cap
    if updates:
        cap = min(cap, max_weight_ratio * median_low(update.num_examples for update in updates))
    weights = [float(min(update.num_examples, cap)) for update in in_order]
    total = math.fsum(weights)
    means: dict[str, npt.NDArray[np.float64]] = {}
    for name in sorted(shapes):
        mean = np.zeros(shapes[name], np.float64)
        for update, weight in zip(in_order, weights, strict=True):
            mean += update.arrays[name] * np.float64(weight / total)
        means[name] = mean
    return means


def trimmed_mean(updates: Sequence[WeightedUpdate], shapes: Shapes, share: float) -> Means:
    """Returns the coordinate-wise trimmed mean (Yin et al. 2018, arXiv 1803.01498, definition 2).

    For each coordinate, the ceil(share * n) largest and smallest of n values are left out, but always fewer than half
    on each side. Rounding up ensures that a share of the nodes is left out even if there are few nodes.

    >>> updates = [WeightedUpdate(str(n), {"w": np.float32([n])}) for n in (1, 2, 3, 1000)]
    >>> trimmed_mean(updates, {"w": (1,)}, 0.2)["w"].tolist()
    [2.5]
    """
    num = len(updates)
    # Rounding may make the product slightly larger than a whole number.
    left_out = min(math.ceil(share * num - 1e-9), (num - 1) // 2)
    means: dict[str, npt.NDArray[np.float64]] = {}
    for name in sorted(shapes):
        if not updates:
            means[name] = np.zeros(shapes[name], np.float64)
            continue
        ranked = np.sort(np.stack([update.arrays[name] for update in updates]), axis=0)
        means[name] = np.asarray(ranked[left_out : num - left_out].mean(axis=0, dtype=np.float64))
    return means


def median(updates: Sequence[WeightedUpdate], shapes: Shapes) -> Means:
    """Returns the coordinate-wise median (Yin et al. 2018, arXiv 1803.01498, definition 1).

    >>> updates = [WeightedUpdate(str(n), {"w": np.float32([n])}) for n in (1, 2, 1000)]
    >>> median(updates, {"w": (1,)})["w"].tolist()
    [2.0]
    """
    # The median is the mean of the middle one or two values.
    return trimmed_mean(updates, shapes, 0.5)
