"""Clipping norms: their range, and a grid on which sums are exact. This module does not import NumPy."""

import math

MIN_NORM, MAX_NORM = 1e-12, 1e12
"""Range of clipping norms in which no intermediate result of a sum of float32 values overflows or is subnormal."""

MAX_SUMMANDS = 1 << 20
"""Number of clipped contributions on the grid of `grid_of` whose sums are exact."""

_GRID_BITS = 32


def grid_of(max_norm: float) -> float:
    """Returns the distance of a grid on which sums of clipped contributions are exact in float64.

    Rounding errors of a sum can exceed the clipping norm C and reveal more than accounting says (Casacuberta et al.
    2022, arXiv:2207.10635). Clipped values that were rounded to multiples of this power of two are at most 2^32
    multiples, so that sums of `MAX_SUMMANDS` of them fit into the 53 bits of a float64.

    Args:
        max_norm: Clipping norm C, from `MIN_NORM` to `MAX_NORM`.

    >>> grid_of(1.0) == 2.0**-31
    True
    """
    return 2.0 ** (math.frexp(max_norm)[1] - _GRID_BITS)
