"""The error-correcting code of ids in text."""

import numpy as np
import pytest

from deepseek.watermark.text.reed_solomon import NUM_SYMBOLS, NUM_VALUES, IdCode

POSITIONS = np.arange(NUM_SYMBOLS)


@pytest.fixture(scope="module")
def code() -> IdCode:
    return IdCode()


@pytest.mark.parametrize("message", [0, 1, (1 << 48) - 1, 0x123456789ABC, 1 << 47])
def test_an_id_is_decoded_from_any_three_symbols(code: IdCode, message: int) -> None:
    word = code.encode(message)
    for known in ([0, 1, 2], [5, 6, 7], [0, 2, 5], [1, 3, 6]):
        scores_PV = np.random.default_rng(0).exponential(size=(NUM_SYMBOLS, NUM_VALUES))
        scores_PV[known, word[known]] += 50
        assert code.decode(scores_PV).id == message


def test_two_ids_agree_in_at_most_two_symbols(code: IdCode) -> None:
    random = np.random.default_rng(1)
    words = {tuple(code.encode(int(random.integers(1 << 48)))) for _ in range(200)}
    words |= {tuple(code.encode(message)) for message in range(100)}
    assert len(words) == 300
    most = max(sum(a == b for a, b in zip(one, other, strict=True)) for one in words for other in words if one != other)
    assert most <= 2


def test_the_score_is_that_of_the_word(code: IdCode) -> None:
    scores_PV = np.random.default_rng(2).gamma(30, size=(NUM_SYMBOLS, NUM_VALUES))
    decoded = code.decode(scores_PV)
    assert 0 <= decoded.id < 1 << 48
    assert decoded.score == pytest.approx(scores_PV[POSITIONS, code.encode(decoded.id)].sum())
