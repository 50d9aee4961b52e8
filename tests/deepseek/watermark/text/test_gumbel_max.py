"""The filter before the comparison of scores gives the same token as a comparison of all words."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from deepseek.watermark.text.gumbel_max import LEAST, gumbel_max

GREATEST = 1 - 2.0**-53
NUM_WORDS = 50_000

Random = np.random.Generator


def scores(u_V: np.ndarray) -> np.ndarray:
    return np.log(-np.log1p(-np.maximum(u_V, LEAST)))


def reference(u_V: np.ndarray, logits_V: np.ndarray) -> int:
    """The definition, which compares all words."""
    return int(np.argmin(scores(u_V) - logits_V))


UNIFORMS: dict[str, Callable[[Random, int], np.ndarray]] = {
    "usual": lambda random, size: np.maximum(random.random(size), LEAST),
    "small": lambda random, size: np.maximum(2.0 ** random.uniform(-60, 0, size) * GREATEST, LEAST),
    "large": lambda random, size: np.minimum(1 - 2.0 ** random.uniform(-60, 0, size), GREATEST).clip(LEAST),
    "extreme": lambda random, size: random.choice([LEAST, 2.0**-53, 0.5, GREATEST], size),
    "zero": lambda random, size: random.choice([0.0, 2.0**-53, 0.5], size),
    "equal": lambda random, size: np.full(size, max(random.random(), LEAST)),
    "powers of two": lambda random, size: 2.0 ** random.integers(-54, 0, size),
    "mantissas of ones": lambda random, size: np.nextafter(2.0 ** random.integers(-53, 1, size), 0),
}

LOGITS: dict[str, Callable[[Random, np.ndarray], np.ndarray]] = {
    "flat": lambda random, u_V: np.zeros(len(u_V)),
    "flat and large": lambda random, u_V: np.full(len(u_V), 1e9),
    "normal": lambda random, u_V: random.normal(0, 3, len(u_V)),
    "one word": lambda random, u_V: np.where(np.arange(len(u_V)) == random.integers(len(u_V)), 0, -np.inf),
    "one likely": lambda random, u_V: np.where(np.arange(len(u_V)) == random.integers(len(u_V)), 30, 0),
    "few words": lambda random, u_V: np.where(np.arange(len(u_V)) % 100, -np.inf, 0),
    "two values": lambda random, u_V: random.choice([-1.0, 1.0], len(u_V)),
    # All scores tie, or differ in their last bits.
    "against the scores": lambda random, u_V: scores(u_V),
    "almost against the scores": lambda random, u_V: scores(u_V) * (1 + random.integers(-4, 5, len(u_V)) * 2.0**-52),
    "beyond single precision": lambda random, u_V: random.choice([-1e39, 3e38, 3.5e38], len(u_V)),
    "one word beyond single precision": lambda random, u_V: np.where(
        np.arange(len(u_V)) == random.integers(len(u_V)), -1e39, -np.inf
    ),
    "many nats": lambda random, u_V: 1e5 + random.normal(0, 3, len(u_V)),
    "many nats, against the scores": lambda random, u_V: 1e5 + scores(u_V),
    # Rounding removes all or a part of the noise of such logits.
    "beyond rounding": lambda random, u_V: random.choice([1e17, 1e17 - 32, -1e17], len(u_V)),
    "near rounding": lambda random, u_V: 1e15 + random.integers(0, 4, len(u_V)),
    "below zero, near rounding": lambda random, u_V: -1e15 - random.integers(0, 4, len(u_V)),
    "greatest and least": lambda random, u_V: random.choice([-1e308, 0.0, 1e308], len(u_V)),
    "least only": lambda random, u_V: -1e308 * random.random(len(u_V)),
    "many magnitudes": lambda random, u_V: (
        random.choice([-1, 1], len(u_V)) * 10.0 ** random.uniform(-300, 300, len(u_V))
    ),
    "subnormal": lambda random, u_V: random.choice([-1, 1], len(u_V)) * 5e-324,
}


@pytest.mark.parametrize("logits", LOGITS)
@pytest.mark.parametrize("uniforms", UNIFORMS)
def test_it_draws_the_same_token_as_a_comparison_of_all_words(uniforms: str, logits: str) -> None:
    random = np.random.default_rng(sum(map(ord, uniforms + logits)))
    for size in (1, 2, 3, 7, 64, 1000, 4097):
        for _ in range(4):
            u_V = UNIFORMS[uniforms](random, size)
            logits_V = LOGITS[logits](random, u_V)
            assert gumbel_max(u_V, logits_V) == reference(u_V, logits_V)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.longdouble])
@pytest.mark.parametrize("name", ["flat", "normal", "few words", "two values", "almost against the scores"])
def test_it_accepts_logits_of_every_precision(name: str, dtype: type[np.floating]) -> None:
    random = np.random.default_rng(1)
    for _ in range(20):
        u_V = UNIFORMS["usual"](random, 1000)
        logits_V = LOGITS[name](random, u_V).astype(dtype)
        assert gumbel_max(u_V, logits_V) == reference(u_V, logits_V)
        assert gumbel_max(u_V[:500], logits_V[::2]) == reference(u_V[:500], logits_V[::2])


@pytest.mark.parametrize("name", ["flat", "normal", "one likely", "two values", "many nats", "beyond rounding"])
def test_it_holds_for_a_large_vocabulary(name: str) -> None:
    random = np.random.default_rng(2)
    for _ in range(20):
        u_V = UNIFORMS["usual"](random, NUM_WORDS)
        logits_V = LOGITS[name](random, u_V).astype(np.float32)
        assert gumbel_max(u_V, logits_V) == reference(u_V, logits_V)


def test_rounding_of_the_limit_loses_no_word() -> None:
    """Halfway between two singles, 2^33 apart, where doubles are 16 apart: the limit may round down and a bound up."""
    for exponent in range(1, 54):
        for step in range(-80, 80):
            assert gumbel_max(np.array([2.0**-exponent]), np.array([2.0**56 + 2.0**32 + 16 * step])) == 0


def test_the_first_of_several_words_with_the_same_score_is_drawn() -> None:
    u_V, logits_V = np.full(9, 0.25), np.zeros(9)
    logits_V[:4] = -1
    assert gumbel_max(u_V, logits_V) == 4


def test_tokens_are_drawn_with_their_probabilities() -> None:
    random = np.random.default_rng(3)
    logits_V, num_draws = np.log([0.5, 0.3, 0.15, 0.05]), 20_000
    counts = np.bincount([gumbel_max(random.random(4), logits_V) for _ in range(num_draws)], minlength=4)
    expected = num_draws * np.exp(logits_V)
    # Three degrees of freedom: exceeded once in 10,000 times.
    assert float(((counts - expected) ** 2 / expected).sum()) < 21.1


def test_the_bits_of_a_uniform_bound_its_logarithm() -> None:
    random = np.random.default_rng(4)
    for uniforms in UNIFORMS.values():
        u_N = np.maximum(uniforms(random, 10_000), LEAST)
        bounds_N = (u_N.view(np.int64) * 2.0**-52 - 1023) * math.log(2)
        gaps_N = np.log(u_N) - bounds_N
        assert gaps_N.min() > -1e-12
        assert gaps_N.max() < 0.06
