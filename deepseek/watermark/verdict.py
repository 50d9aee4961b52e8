"""What detectors answer."""

import math
from enum import StrEnum

LOG_MARKED = math.log(1e-6)
LOG_NOT_MARKED = math.log(1e-2)


class Verdict(StrEnum):
    """What a p-value says. Of content without a mark at most one in a million is taken for marked."""

    MARKED = "marked"
    NOT_MARKED = "not marked"
    INCONCLUSIVE = "inconclusive"


def judged(log_p: float, *, is_enough: bool) -> Verdict:
    """Judges.

    Args:
        log_p: Natural logarithm of the p-value.
        is_enough: Whether there is so much content that a mark is found in most of its kind.
    """
    if log_p <= LOG_MARKED:
        return Verdict.MARKED
    return Verdict.NOT_MARKED if log_p > LOG_NOT_MARKED and is_enough else Verdict.INCONCLUSIVE
