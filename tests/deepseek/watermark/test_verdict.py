"""What a p-value is taken for."""

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
def test_only_what_is_sure_is_said(p: float, is_enough: bool, verdict: Verdict) -> None:
    assert judged(math.log(p), is_enough=is_enough) is verdict
