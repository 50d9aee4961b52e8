"""The verdict for a p-value."""

import math

import pytest

from deepseek.watermark.verdict import Verdict, judged


@pytest.mark.parametrize(
    ("p", "is_enough", "verdict"),
    [
        (1e-9, True, Verdict.MARKED),
        (0.99e-6, False, Verdict.MARKED),
        (1.01e-6, True, Verdict.INCONCLUSIVE),
        (0.01, True, Verdict.INCONCLUSIVE),
        (0.011, True, Verdict.NOT_MARKED),
        (0.5, False, Verdict.INCONCLUSIVE),
    ],
)
def test_a_verdict_is_given_only_if_it_is_certain(p: float, is_enough: bool, verdict: Verdict) -> None:
    assert judged(math.log(p), is_enough=is_enough) is verdict
