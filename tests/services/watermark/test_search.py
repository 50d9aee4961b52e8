"""What several keys tell together."""

import math
import time
from dataclasses import dataclass

import pytest

from common import deadline
from common.errors import DeadlineExceeded
from deepseek.watermark.keys import WatermarkKey, derive_key
from deepseek.watermark.verdict import Verdict, judged
from services.watermark.keys import DetectionKeys
from services.watermark.search import P_STEPS, CombinedDetection, detect_with_keys


@dataclass(frozen=True)
class Detection:
    """What one key tells."""

    verdict: Verdict
    log_p: float
    id: int | None = None


KEYS = [derive_key(bytes(32), tenant="lab", modality="text", epoch=epoch) for epoch in range(8)]


def looked(
    *p_values: float, is_enough: bool = True, num_revoked: int = 0, is_complete: bool = True
) -> tuple[CombinedDetection[Detection], int]:
    """The outcome, and how many keys were tried; the last ones are revoked."""
    tried = []

    def detect(key: WatermarkKey) -> Detection:
        tried.append(key)
        log_p = math.log(p_values[key.epoch])
        verdict = judged(log_p, is_enough=is_enough)
        return Detection(verdict, log_p, key.epoch if verdict is Verdict.MARKED else None)

    num_keys = len(p_values) - num_revoked
    return detect_with_keys(DetectionKeys(KEYS[:num_keys], KEYS[num_keys : len(p_values)], is_complete), detect), len(
        tried
    )


@pytest.mark.parametrize(
    ("p", "step"), [(0.9, 1), (0.011, 1), (0.009, 1e-2), (1e-5, 1e-2), (1e-6, 1e-6), (1e-12, 1e-12), (1e-99, 1e-24)]
)
def test_p_is_told_in_steps_that_are_not_below_it(p: float, step: float) -> None:
    outcome, _ = looked(p)
    assert outcome.p == step
    assert outcome.p in P_STEPS


def test_every_key_costs_certainty() -> None:
    assert looked(2e-7)[0].verdict is Verdict.MARKED
    outcome, _ = looked(*[2e-7] * 8)
    assert (outcome.verdict, outcome.p, outcome.watermark) == (Verdict.INCONCLUSIVE, 1e-2, "")
    assert outcome.log_p == pytest.approx(math.log(16e-7))
    assert looked(*[0.5] * 8)[0].log_p == 0


def test_no_needs_enough_content_and_a_p_value_that_is_high_for_all_keys_together() -> None:
    assert looked(0.004, 0.9, 0.9, 0.9)[0].verdict is Verdict.NOT_MARKED
    assert looked(0.001, 0.9, 0.9, 0.9)[0].verdict is Verdict.INCONCLUSIVE
    assert looked(0.9, 0.9, is_enough=False)[0].verdict is Verdict.INCONCLUSIVE


def test_a_mark_that_is_found_ends_the_search() -> None:
    outcome, num_tried = looked(0.9, 1e-30, 0.9)
    assert (outcome.epoch, outcome.watermark, num_tried) == (1, "watermarks/000000000001", 2)


def test_what_only_a_revoked_key_finds_marked_is_neither_marked_nor_unmarked() -> None:
    for p in (0.9, 1e-4):
        outcome, num_tried = looked(p, 0.9, 1e-30, num_revoked=2)
        assert (outcome.verdict, outcome.p, outcome.watermark, num_tried) == (Verdict.INCONCLUSIVE, 1, "", 3)
        assert outcome.detection is None
    # Revoked keys cost no certainty, and are not asked where there is a mark.
    outcome, num_tried = looked(1e-6, 1e-30, num_revoked=1)
    assert (outcome.verdict, outcome.watermark, num_tried) == (Verdict.MARKED, "watermarks/000000000000", 1)
    outcome, _ = looked(0.9, 0.02, num_revoked=1)
    assert (outcome.verdict, outcome.epoch) == (Verdict.NOT_MARKED, 0)
    # Of several each costs certainty.
    assert looked(0.9, 5e-7, 5e-7, 5e-7, num_revoked=3)[0].verdict is Verdict.NOT_MARKED


def test_where_not_all_revoked_keys_are_tried_nothing_is_not_marked() -> None:
    outcome, num_tried = looked(0.9, 0.9, num_revoked=1, is_complete=False)
    assert (outcome.verdict, outcome.p, num_tried) == (Verdict.INCONCLUSIVE, 1, 2)
    assert looked(1e-7, 0.9, num_revoked=1, is_complete=False)[0].verdict is Verdict.MARKED


def test_without_a_key_nothing_can_be_said() -> None:
    outcome, num_tried = looked()
    assert (outcome.verdict, outcome.p, outcome.watermark, num_tried) == (Verdict.INCONCLUSIVE, 1, "", 0)


def test_a_search_ends_with_the_calls_deadline() -> None:
    with deadline.until(time.monotonic() - 1), pytest.raises(DeadlineExceeded):
        looked(0.9)
