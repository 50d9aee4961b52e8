"""SynthID-Text (Dathathri et al., Nature 634, 2024) in its non-distortionary form: tournaments with two leaves.

Given a context, each of 30 layers assigns a pseudo-random bit g to every possible next token, and moves probability to
tokens with g = 1: p becomes p * (1 + g - sum of g * p), with the sum over all tokens. Marks carry no id. The score of a
token is the weighted mean of its 30 bits, with weights that decrease linearly from 10 to 1. This score needs no
training. In units of 1/29, the weights are integers, so the score of unmarked text is a sum of independent integers.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from deepseek.watermark.keys import WatermarkKey
from deepseek.watermark.tail_bounds import log_lattice_tail
from deepseek.watermark.text.scheme import (
    Bits,
    Detector,
    Evidence,
    Logits,
    Probabilities,
    Sampler,
    draw_from,
    scored,
    softmax,
)

NUM_LAYERS = 30
_WEIGHTS = tuple(290 - 9 * layer for layer in range(NUM_LAYERS))
_PURPOSE = "synthid"


class SynthIdSampler(Sampler):
    """Draws each token as the winner of a tournament that favours tokens whose pseudo-random bits are 1.

    The bits are derived from the key and the context.

    Args:
        key: Key of the mark.
        random: Source of randomness for the draws; unpredictable by default.
    """

    def __init__(self, key: WatermarkKey, random: np.random.Generator | None = None) -> None:
        super().__init__(random)
        self._bits = Bits(key, _PURPOSE)

    def _marked(self, logits_V: Logits, context: tuple[int, ...]) -> int:
        words_V = self._bits.words(context, 0, len(logits_V))
        return draw_from(_tournament(softmax(logits_V), words_V), self._random)


class SynthIdDetector(Detector):
    """Scores tokens by the weighted mean of their bits."""

    def __init__(self, key: WatermarkKey) -> None:
        self._bits = Bits(key, _PURPOSE)

    def weigh(self, tokens: Sequence[int]) -> Evidence:
        """See `Detector.weigh`."""
        words = [self._bits.words(context, token, 1)[0] for _, context, token in scored(tokens)]
        total = sum(map(_score, words))
        return Evidence(len(words), log_lattice_tail(_one_token(), len(words), total))

    def excess(self, tokens: Sequence[int], messages: Sequence[int]) -> list[tuple[int, float]]:
        """See `Detector.excess`. A score is the number of standard deviations above the unmarked mean, minus 0.2."""
        mean, deviation = sum(_WEIGHTS) / 2, math.sqrt(sum(weight**2 for weight in _WEIGHTS)) / 2
        return [
            (position, (_score(self._bits.words(context, token, 1)[0]) - mean) / deviation - 0.2)
            for position, context, token in scored(tokens)
        ]


def _score(word: np.uint64) -> int:
    return sum(int(_layer(word, layer)) * weight for layer, weight in enumerate(_WEIGHTS))


def _tournament(probabilities_V: Probabilities, words_V: npt.NDArray[np.uint64]) -> Probabilities:
    for layer in range(NUM_LAYERS):
        g_V = _layer(words_V, layer)
        probabilities_V = probabilities_V * (1 + g_V - (g_V * probabilities_V).sum())
    return probabilities_V


def _layer(words: npt.NDArray[np.uint64] | np.uint64, layer: int) -> npt.NDArray[np.uint64]:
    return np.asarray(words >> np.uint64(layer) & np.uint64(1))


def _one_token() -> npt.NDArray[np.float64]:
    """Returns the probability of every score that a single unmarked token can have."""
    masses = np.ones(1)
    for weight in _WEIGHTS:
        with_it = np.zeros(weight)
        masses = (np.concatenate([masses, with_it]) + np.concatenate([with_it, masses])) / 2
    return masses
