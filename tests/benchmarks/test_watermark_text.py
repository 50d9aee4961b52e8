"""The parts of the benchmark of text marks that could cause a wrong figure."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.watermark_text import (
    ENTROPIES,
    LENGTHS,
    RANKS,
    SCHEMES,
    chi_squared,
    measure_text,
    speed,
    speed_without_avx512,
    summary,
    write_figure,
    zipf,
)
from deepseek.watermark.text.scheme import softmax


@pytest.mark.parametrize("entropy", ENTROPIES)
def test_logits_have_the_entropy_of_their_cell(entropy: float) -> None:
    p = softmax(zipf(entropy))
    assert -(p * np.log(p)).sum() == pytest.approx(entropy, abs=1e-6)


def test_a_text_gives_all_data_for_the_figures(tmp_path: Path) -> None:
    texts = [measure_text(entropy, 0) for entropy in ENTROPIES]
    assert measure_text(ENTROPIES[0], 0) == texts[0]
    for text in texts:
        assert all(len(text["log_p"][scheme]) == len(LENGTHS) for scheme in SCHEMES)
    figures = summary(texts)
    assert len(figures["cells"]) == 2 * len(ENTROPIES) * len(LENGTHS)
    assert chi_squared(texts)["draws"] == len(ENTROPIES) * max(LENGTHS)
    assert 0.7 < figures["perplexity_ratio"] < 1.4
    assert figures["id_exact_400tok"] == 1.0
    assert figures["id_exact_400tok_interval"] == [pytest.approx(0.025), 1.0]
    assert len(figures["ids"]) == len(ENTROPIES) * len(LENGTHS)
    write_figure(tmp_path / "figures" / "text.png", figures)
    assert (tmp_path / "figures" / "text.png").stat().st_size > 10_000


def test_a_draw_is_compared_with_others() -> None:
    times = speed(3) | speed_without_avx512(3)
    assert times.keys() == {
        "ms_per_token",
        "ms_per_token_flat",
        "ms_per_token_no_avx512",
        "ms_per_token_flat_no_avx512",
        "draw_times_synthid",
        "draw_times_kgw",
        "draw_times_unmarked",
    }
    assert min(times.values()) > 0


def test_tokens_are_counted_by_rank() -> None:
    text = measure_text(ENTROPIES[0], 3)
    assert sum(text["ranks"]) == max(LENGTHS)
    assert text["ranks"][0] > max(LENGTHS) / 2  # little choice


def test_tokens_that_are_too_frequent_are_noticed() -> None:
    random = np.random.default_rng(0)
    texts = []
    for entropy in ENTROPIES:
        p = softmax(zipf(entropy))
        drawn = random.choice(len(p), 100_000, p=p)
        counts = np.bincount(np.searchsorted(RANKS, drawn, "right") - 1, minlength=len(RANKS))
        texts.append({"entropy": entropy, "ranks": counts})
    right = chi_squared(texts)
    assert right["chi_squared_freedom"] == 28
    assert right["draws"] == 400_000
    assert right["chi_squared_p"] > 1e-3
    texts[2]["ranks"] = texts[2]["ranks"] + np.array([3000, *[0] * 7])
    assert chi_squared(texts)["chi_squared_p"] < 1e-3
