"""The verdict of a detector, derived from a p-value."""

import math
from enum import StrEnum

LOG_MARKED = math.log(1e-6)
LOG_NOT_MARKED = math.log(1e-2)


class Verdict(StrEnum):
    """The result of a detection. The probability that unmarked content is reported as marked is at most 1e-6."""

    MARKED = "marked"
    NOT_MARKED = "not marked"
    INCONCLUSIVE = "inconclusive"


def judged(log_p: float, *, is_enough: bool) -> Verdict:
    """Returns the verdict for a p-value.

    Args:
        log_p: Natural logarithm of the p-value.
        is_enough: Whether the content is large enough that a mark, if there is one, would usually be found.
    """
    if log_p <= LOG_MARKED:
        return Verdict.MARKED
    return Verdict.NOT_MARKED if log_p > LOG_NOT_MARKED and is_enough else Verdict.INCONCLUSIVE
