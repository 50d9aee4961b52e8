"""Detection with several keys, and the part of the result that callers may see."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, Protocol, TypeVar

from common import deadline
from common.errors import DeadlineExceeded
from deepseek.watermark.keys import WatermarkKey
from deepseek.watermark.verdict import LOG_MARKED, Verdict, judged
from services.watermark.keys import DetectionKeys
from services.watermark.resources import watermark_name

P_STEPS = (1e-24, 1e-12, 1e-6, 1e-2, 1.0)
"""The only p-values that are disclosed: an exact p-value is rounded up to the nearest of these steps. With exact
p-values, an attacker could see which edits weaken a mark, and repeat such edits until the mark is no longer
detected."""


class Detection(Protocol):
    """The result of detection with one key, whatever the kind of content."""

    @property
    def verdict(self) -> Verdict:
        """Whether the content is marked."""

    @property
    def log_p(self) -> float:
        """Natural logarithm of the p-value."""

    @property
    def id(self) -> int | None:
        """Id that the mark carries; None if the id could not be read."""


D = TypeVar("D", bound=Detection)


@dataclass(frozen=True)
class CombinedDetection(Generic[D]):
    """Combined result of detection with several keys.

    Attributes:
        verdict: Whether the content is marked.
        log_p: Natural logarithm of the p-value, corrected for the number of keys.
        epoch: Epoch of the key with the strongest evidence; -1 if no key is usable, or if a revoked key
            found a mark.
        detection: Result of detection with that key; None if `epoch` is -1.
    """

    verdict: Verdict
    log_p: float
    epoch: int = -1
    detection: D | None = None

    @property
    def p(self) -> float:
        """The p-value, rounded up to one of P_STEPS. Every caller may see this rounded value."""
        return next(step for step in P_STEPS if self.log_p <= math.log(step))

    @property
    def mark(self) -> D | None:
        """Result of detection with the key that found a mark; None if no mark was found."""
        return self.detection if self.verdict is Verdict.MARKED else None

    @property
    def watermark(self) -> str:
        """`watermarks/<id>`; empty if no id could be read."""
        return "" if self.mark is None or self.mark.id is None else watermark_name(self.mark.id)


def detect_with_keys(keys: DetectionKeys, detect: Callable[[WatermarkKey], D]) -> CombinedDetection[D]:
    """Tries one key after another until a mark is found.

    A mark made with a revoked key is not evidence, because an attacker may have made the mark. Content with such a mark
    cannot be called unmarked either, so the outcome is inconclusive. The outcome is also inconclusive if there is no
    usable key, or if no mark is found but some revoked keys have not been tried.

    Args:
        keys: Keys to try.
        detect: Function that detects a mark made with the given key.

    Raises:
        DeadlineExceeded: The call's deadline passed.
    """
    if not keys.usable:
        return CombinedDetection(Verdict.INCONCLUSIVE, 0.0)
    outcome = _try_keys(keys.usable, detect)
    if outcome.mark is None and keys.revoked and _try_keys(keys.revoked, detect).mark is not None:
        return CombinedDetection(Verdict.INCONCLUSIVE, 0.0)
    if outcome.verdict is Verdict.NOT_MARKED and not keys.is_complete:
        return replace(outcome, verdict=Verdict.INCONCLUSIVE)
    return outcome


def check_deadline() -> None:
    """Raises an error if the deadline of the current call has passed.

    Raises:
        DeadlineExceeded: The call's deadline passed.
    """
    if deadline.within(None) == 0:
        message = "the deadline passed before all keys were tried; allow more time"
        raise DeadlineExceeded("DEADLINE_EXCEEDED", message)


def _try_keys(keys: Sequence[WatermarkKey], detect: Callable[[WatermarkKey], D]) -> CombinedDetection[D]:
    log_num_keys = math.log(len(keys))  # Bonferroni correction
    results: list[tuple[WatermarkKey, D]] = []
    for key in keys:
        check_deadline()
        results.append((key, detect(key)))
        if results[-1][1].log_p + log_num_keys <= LOG_MARKED:
            break
    best_key, best = min(results, key=lambda result: result[1].log_p)
    log_p = min(0.0, best.log_p + log_num_keys)
    # Whether the content suffices to rule out a mark does not depend on the key, so one NOT_MARKED verdict settles it.
    is_enough = any(detection.verdict is Verdict.NOT_MARKED for _, detection in results)
    return CombinedDetection(judged(log_p, is_enough=is_enough), log_p, best_key.epoch, best)
