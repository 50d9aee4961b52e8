"""SynthID-Text (Dathathri et al., Nature 634, 2024), in its form that does not distort: tournaments of two leaves.

Each of 30 layers gives every token behind a context a pseudo-random bit g, and moves probability to tokens with a one:
p becomes p * (1 + g - sum of g * p). It carries no id. The score is the weighted mean of the bits, with weights that
fall from 10 to 1 over the layers, which needs no training; in units of 1/29 the weights are whole, so the score of text
without a mark is a sum of independent whole numbers.
"""

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from deepseek.watermark.keys import WatermarkKey
from deepseek.watermark.tail import log_lattice_tail
from deepseek.watermark.text.scheme import (
    Bits,
    Detector,
    Evidence,
    Logits,
    Probabilities,
    Sampler,
    plain,
    scored,
    softmax,
)

NUM_LAYERS = 30
_WEIGHTS = tuple(290 - 9 * layer for layer in range(NUM_LAYERS))
_PURPOSE = "synthid"


class SynthIdSampler(Sampler):
    """Draws the winners of tournaments.

    Args:
        key: The key.
        random: Draws; unpredictable by default.
    """

    def __init__(self, key: WatermarkKey, random: np.random.Generator | None = None) -> None:
        super().__init__(random)
        self._bits = Bits(key, _PURPOSE)

    def _marked(self, logits_V: Logits, context: tuple[int, ...]) -> int:
        words_V = self._bits.words(context, 0, len(logits_V))
        return plain(_tournament(softmax(logits_V), words_V), self._random)


class SynthIdDetector(Detector):
    """Weighs the bits of tokens.

    Args:
        key: The key.
    """

    def __init__(self, key: WatermarkKey) -> None:
        self._bits = Bits(key, _PURPOSE)

    def weigh(self, tokens: Sequence[int]) -> Evidence:
        """See `Detector.weigh`."""
        words = [self._bits.words(context, token, 1)[0] for _, context, token in scored(tokens)]
        total = sum(map(_score, words))
        return Evidence(len(words), log_lattice_tail(_one_token(), len(words), total))

    def excess(self, tokens: Sequence[int], messages: Sequence[int]) -> list[tuple[int, float]]:
        """See `Detector.excess`: above a fifth of a standard deviation more than the mean."""
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
    """Probability of each score of a single token without a mark."""
    masses = np.ones(1)
    for weight in _WEIGHTS:
        with_it = np.zeros(weight)
        masses = (np.concatenate([masses, with_it]) + np.concatenate([with_it, masses])) / 2
    return masses
