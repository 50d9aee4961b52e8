"""How text marks are measured: the parts that a wrong figure would come from."""

import numpy as np
import pytest

from benchmarks.watermark_text import (
    ENTROPIES,
    LENGTHS,
    SCHEMES,
    chi_squared,
    is_below,
    measure_text,
    summary,
    zipf,
)
from deepseek.watermark.text.scheme import softmax


@pytest.mark.parametrize("entropy", ENTROPIES)
def test_logits_have_the_entropy_of_their_cell(entropy: float) -> None:
    p = softmax(zipf(entropy))
    assert -(p * np.log(p)).sum() == pytest.approx(entropy, abs=1e-6)


@pytest.mark.parametrize(
    ("ours", "theirs", "below"),
    [
        ([], [], False),
        ([True] * 9, [True] * 9, False),
        ([True] * 9, [False] * 9, False),
        ([False] * 4, [True] * 4, False),  # one in sixteen by chance
        ([False] * 5, [True] * 5, True),  # one in thirty-two
        ([False] * 5 + [True], [True] * 5 + [False], False),  # seven in sixty-four
    ],
)
def test_below_means_more_than_chance(ours: list[bool], theirs: list[bool], below: bool) -> None:
    assert is_below(ours, theirs) is below


def test_a_text_gives_all_that_the_figures_need() -> None:
    texts = [measure_text(entropy, 0) for entropy in ENTROPIES]
    assert measure_text(ENTROPIES[0], 0) == texts[0]
    for text in texts:
        assert all(len(text["log_p"][scheme]) == len(LENGTHS) for scheme in SCHEMES)
    figures = summary(texts)
    assert len(figures["cells"]) == 2 * len(ENTROPIES) * len(LENGTHS)
    assert 0.7 < figures["perplexity_ratio"] < 1.4
    assert figures["id_exact_400tok"] == 1.0


def test_single_tokens_come_with_their_probabilities() -> None:
    statistic, freedom = chi_squared(3000)
    assert freedom == 7
    assert statistic < 29.9  # exceeded once in 10,000 times
