"""Gumbel-max sampling: draws a token, given a logit and a uniform number u per token of the vocabulary.

The token with the smallest ln(-ln(1 - u)) - logit is drawn. Two logarithms per token of the vocabulary would dominate
the cost of a draw, and would take twice as long where NumPy has no vectorised logarithm (x86-64 without AVX-512). A
bound without logarithms excludes all but a few tokens of a vocabulary of 50,000. Only for these few is the expression
computed; the result is the same as if it were computed for all tokens.
"""

import math

import numpy as np
import numpy.typing as npt

from deepseek.watermark.arrays import Real

LEAST = 2.0**-54
"""Uniforms below this value are raised to it. It is half of the smallest positive uniform that can be drawn."""

_NATS_PER_BIT = math.log(2) * 2.0**-52
_BIAS = math.log(2) * 1023
_SLACK = 2.0**-20


def gumbel_max(u_V: npt.NDArray[np.float64], logits_V: Real) -> int:
    """Returns the token with the smallest score ln(-ln(1 - u)) - logit in double precision. Ties go to the first.

    A positive double u = 2^e (1 + f) with 0 <= f < 1 has bits that, read as an integer, are 2^52 (1023 + e + f). Here
    e + f <= log2(u), because f <= log2(1 + f) (Mitchell 1962). Also, u <= -ln(1 - u). Therefore

        ln(2) (bits / 2^52 - 1023) - logit <= ln(u) - logit <= ln(-ln(1 - u)) - logit.

    The right side is the token's score. The left side is a lower bound on the score, at most 0.06 nats below the middle
    expression. A token whose bound exceeds another token's score cannot be drawn. The function computes the score s of
    the token with the smallest bound; s is close to the smallest score. It then excludes all tokens whose bounds exceed
    s by more than a small slack. For a uniform below `LEAST`, the score uses `LEAST`, but the bound uses the original,
    smaller uniform, and so is still a lower bound.

    Because of the slack, rounding never excludes the wrong token. There are two sources of error. First, scores are
    compared after rounding to double precision, and rounding is monotonic, so the exact score of a token that beats s
    or ties with it is at most s + 2^-53 |s|. Second, bounds are compared with s in single precision, where the errors
    of a bound and of s add up to less than 2^-22 (710 + |s|). The slack is more than four times this sum, to allow for
    errors of the logarithm function.

    Args:
        u_V: Uniforms in [0, 1), (vocabulary,); those below `LEAST` are raised to it.
        logits_V: Logits, (vocabulary,), finite or -inf; at least one is finite.

    >>> gumbel_max(np.array([0.5, 0.1, 0.1]), np.array([1.0, 0.0, 0.0]))
    1
    """
    bounds_V = np.multiply(u_V.view(np.int64), _NATS_PER_BIT, out=np.empty(len(u_V), np.float32))
    with np.errstate(over="ignore"):  # logits beyond single precision become inf or -inf, which compare correctly
        bounds_V -= logits_V
        likely = int(bounds_V.argmin())
        score = math.log(-math.log1p(-max(float(u_V[likely]), LEAST))) - float(logits_V[likely])
        possible = np.flatnonzero(bounds_V <= score + _BIAS + _SLACK * (1024 + abs(score)))
    u_N = np.maximum(u_V[possible], LEAST)
    return int(possible[np.argmin(np.log(-np.log1p(-u_N)) - logits_V[possible])])
