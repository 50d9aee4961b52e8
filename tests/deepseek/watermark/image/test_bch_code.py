"""The error-correcting code of image payloads."""

import numpy as np
import pytest

from deepseek.watermark.image.bch_code import NUM_BITS, NUM_DATA, BchCode, _generator

DATA = 0xDEADBEEF_12345678


@pytest.fixture(scope="module")
def code() -> BchCode:
    return BchCode()


def test_the_generator_equals_that_of_published_tables() -> None:
    # Lin and Costello, Error Control Coding, table of BCH codes of length 127: (127, 64, t = 10), in octal.
    assert oct(_generator()) == "0o1206534025570773100045"


@pytest.mark.parametrize("data", [0, 1, DATA, (1 << NUM_DATA) - 1])
def test_encoded_bits_are_decoded(code: BchCode, data: int) -> None:
    word = code.encode(data)
    assert word.shape == (NUM_BITS,)
    assert code.decode(2.0 * word - 1)[0].data == data
    assert code.decode(2.0 * word - 1)[0].agreement == NUM_BITS


def test_ten_wrong_bits_are_corrected_at_any_positions(code: BchCode) -> None:
    random, soft = np.random.default_rng(0), 2.0 * code.encode(DATA) - 1
    for _ in range(20):
        damaged = soft + random.normal(0, 0.1, NUM_BITS)
        damaged[random.choice(NUM_BITS, 10, replace=False)] *= -0.5
        assert code.decode(damaged)[0].data == DATA


def test_two_codewords_differ_in_at_least_21_bits(code: BchCode) -> None:
    random = np.random.default_rng(1)
    for _ in range(500):
        one, other = (int(random.integers(1 << 63)) for _ in range(2))
        assert (code.encode(one) != code.encode(other)).sum() >= 21
    for bit in range(NUM_DATA):
        assert code.encode(1 << bit).sum() >= 21


def test_soft_bits_correct_more_than_hard_bits(code: BchCode) -> None:
    random, word, decoded = np.random.default_rng(2), 2.0 * code.encode(DATA) - 1, 0
    for _ in range(50):
        decoded += code.decode(word * 1.5 + random.normal(size=NUM_BITS))[0].data == DATA
    assert decoded >= 45


def test_several_codewords_are_returned_best_first(code: BchCode) -> None:
    words = code.decode(np.random.default_rng(3).normal(size=NUM_BITS), 5)
    assert len({word.data for word in words}) == 5
    assert [word.agreement for word in words] == sorted((word.agreement for word in words), reverse=True)


def test_three_errors_among_the_surest_bits_are_corrected(code: BchCode) -> None:
    """Three is the order of the decoder. The wrong bits look as sure as the others."""
    random = np.random.default_rng(6)
    for _ in range(20):
        data = int(random.integers(1 << 63))
        soft = 2.0 * code.encode(data) - 1
        sure = random.choice(NUM_DATA, 3, replace=False)
        soft[:NUM_DATA] *= 2 + random.uniform(0, 0.1, NUM_DATA)  # systematic: these become the basis
        soft[sure] *= -1
        assert code.decode(soft)[0].data == data


def test_noisy_words_are_decoded_about_as_often_as_possible(code: BchCode) -> None:
    random, num_read = np.random.default_rng(7), 0
    for _ in range(100):
        data = int(random.integers(1 << 63))
        num_read += code.decode(2.0 * code.encode(data) - 1 + random.normal(size=NUM_BITS))[0].data == data
    assert num_read >= 47  # order 2 reads 39, and order 1 reads 26
