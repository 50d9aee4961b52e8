"""Gumbel-max sampling: draws a token from logits, given uniforms.

The token with the least ln(-ln(1 - u)) - logit is drawn. Two logarithms per word of a vocabulary would be most of the
cost of a token, and twice as much where NumPy has no vectorised logarithm (x86-64 without AVX-512). A bound without
logarithms excludes all but a few of 50,000 words; only those are compared exactly, and the result is the same.
"""

import math

import numpy as np
import numpy.typing as npt

from deepseek.watermark.arrays import Real

LEAST = 2.0**-54
"""Smaller uniforms are replaced by this value: half of the smallest one above 0 that can be drawn."""

_NATS_PER_BIT = math.log(2) * 2.0**-52
_BIAS = math.log(2) * 1023
_SLACK = 2.0**-20


def gumbel_max(u_V: npt.NDArray[np.float64], logits_V: Real) -> int:
    """Returns the token with the least ln(-ln(1 - u)) - logit, in double precision; the first in case of a tie.

    The bits of a positive double 2^e (1 + f), read as an integer, are 2^52 (1023 + e + f), and e + f is at most its
    binary logarithm, since f <= log2(1 + f) for 0 <= f < 1 (Mitchell 1962). With u <= -ln(1 - u),

        ln(2) (bits / 2^52 - 1023) - logit <= ln(u) - logit <= ln(-ln(1 - u)) - logit,

    and the left side is at most 0.06 nats below the middle. A token whose left side exceeds the score of any token,
    the right side, is not drawn. The token with the least left side has a score close to the least, and few are left.
    For uniforms below `LEAST` the left side is computed without the replacement, which is still a lower bound.

    Rounding: subtraction is monotonic, so a score that rounds to s or less is at most s + 2^-53 |s|. In single
    precision the left side and the limit are off by less than 2^-22 (710 + |s|) together. The slack is over four times
    that, which leaves room for the errors of any logarithm.

    Args:
        u_V: (vocabulary,), uniforms from 0 to below 1; those below `LEAST` count as `LEAST`.
        logits_V: (vocabulary,), finite or -inf, at least one of them finite.

    >>> gumbel_max(np.array([0.5, 0.1, 0.1]), np.array([1.0, 0.0, 0.0]))
    1
    """
    bounds_V = np.multiply(u_V.view(np.int64), _NATS_PER_BIT, out=np.empty(len(u_V), np.float32))
    with np.errstate(over="ignore"):  # logits beyond single precision become -inf, which is compared, or inf
        bounds_V -= logits_V
        likely = int(bounds_V.argmin())
        score = math.log(-math.log1p(-max(float(u_V[likely]), LEAST))) - float(logits_V[likely])
        possible = np.flatnonzero(bounds_V <= score + _BIAS + _SLACK * (1024 + abs(score)))
    u_N = np.maximum(u_V[possible], LEAST)
    return int(possible[np.argmin(np.log(-np.log1p(-u_N)) - logits_V[possible])])
