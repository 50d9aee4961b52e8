"""Looks for marks by several keys, and tells what may be known of the outcome."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from common import deadline
from common.errors import DeadlineExceeded
from deepseek.watermark.keys import WatermarkKey
from deepseek.watermark.verdict import LOG_MARKED, Verdict, judged
from services.watermark.keys import Finding
from services.watermark.watermarks import watermark_name

P_STEPS = (1e-24, 1e-12, 1e-6, 1e-2, 1.0)
"""What a caller learns of a p-value is the least of these that is not below it: by its digits one could change content
little by little until it is not taken for marked."""


class Detection(Protocol):
    """What every kind of content tells of a mark of one key."""

    @property
    def verdict(self) -> Verdict:
        """Whether it is marked."""

    @property
    def log_p(self) -> float:
        """Natural logarithm of the p-value."""

    @property
    def id(self) -> int | None:
        """The id, if one could be read."""


D = TypeVar("D", bound=Detection)


@dataclass(frozen=True)
class Outcome(Generic[D]):
    """What was found by all keys together.

    Attributes:
        verdict: Whether it is marked.
        log_p: Natural logarithm of the p-value, corrected for the number of keys.
        epoch: Of the key that spoke most for a mark; -1 if nothing can be said.
        detection: What that key found; None if nothing can be said.
    """

    verdict: Verdict
    log_p: float
    epoch: int = -1
    detection: D | None = None

    @property
    def p(self) -> float:
        """What everybody may know of the p-value."""
        return next(step for step in P_STEPS if self.log_p <= math.log(step))

    @property
    def mark(self) -> D | None:
        """What was found of a mark; None if there is none."""
        return self.detection if self.verdict is Verdict.MARKED else None

    @property
    def watermark(self) -> str:
        """`watermarks/<id>`; empty if no id could be read."""
        return "" if self.mark is None or self.mark.id is None else watermark_name(self.mark.id)


def look(by: Finding, detect: Callable[[WatermarkKey], D]) -> Outcome[D]:
    """Looks by one key after the other, until a mark is found.

    By revoked keys nothing is found, since anybody may have marked with them. But what they would find is not unmarked
    either: of that nothing at all is said. And where not all of them are tried, what is left may be theirs.

    Args:
        by: The keys.
        detect: Looks by one.

    Raises:
        DeadlineExceeded: The call's deadline passed on the way.
    """
    if not by.keys:
        return Outcome(Verdict.INCONCLUSIVE, 0.0)
    outcome = _looked(by.keys, detect)
    if outcome.mark is None and by.revoked and _looked(by.revoked, detect).mark is not None:
        return Outcome(Verdict.INCONCLUSIVE, 0.0)
    if outcome.verdict is Verdict.NOT_MARKED and not by.is_complete:
        return replace(outcome, verdict=Verdict.INCONCLUSIVE)
    return outcome


def check_deadline() -> None:
    """Ends a search whose answer nobody waits for.

    Raises:
        DeadlineExceeded: The call's deadline passed.
    """
    if deadline.within(None) == 0:
        raise DeadlineExceeded("DEADLINE_EXCEEDED", "the deadline passed before all keys were tried; wait longer")


def _looked(keys: Sequence[WatermarkKey], detect: Callable[[WatermarkKey], D]) -> Outcome[D]:
    tries = math.log(len(keys))  # Bonferroni
    found: list[tuple[WatermarkKey, D]] = []
    for key in keys:
        check_deadline()
        found.append((key, detect(key)))
        if found[-1][1].log_p + tries <= LOG_MARKED:
            break
    best_key, best = min(found, key=lambda one: one[1].log_p)
    log_p = min(0.0, best.log_p + tries)
    # Whether there is enough content to say no is the same for all keys.
    is_enough = any(detection.verdict is Verdict.NOT_MARKED for _, detection in found)
    return Outcome(judged(log_p, is_enough=is_enough), log_p, best_key.epoch, best)
