"""Green lists (Kirchenbauer et al. 2023): what a key colours green behind a context is made likelier.

It distorts, carries no id, and is found with less text where there is much to choose from. For comparison, and for
those who have it in use: `GAMMA` of the vocabulary is green, whose logits get `DELTA` more. Text without a mark has a
binomial number of green tokens.
"""

import math
from collections.abc import Sequence

import numpy as np

from deepseek.watermark.keys import WatermarkKey
from deepseek.watermark.tail import log_binomial_tail
from deepseek.watermark.text.scheme import Bits, Detector, Evidence, Logits, Sampler, plain, scored, softmax

GAMMA = 0.25
DELTA = 2.0
_GREEN = np.uint64(GAMMA * 2**64)
_PURPOSE = "kgw"


class KgwSampler(Sampler):
    """Draws green tokens more often than others.

    Args:
        key: The key.
        random: Draws; unpredictable by default.
    """

    def __init__(self, key: WatermarkKey, random: np.random.Generator | None = None) -> None:
        super().__init__(random)
        self._bits = Bits(key, _PURPOSE)

    def _marked(self, logits_V: Logits, context: tuple[int, ...]) -> int:
        green_V = self._bits.words(context, 0, len(logits_V)) < _GREEN
        return plain(softmax(logits_V + DELTA * green_V), self._random)


class KgwDetector(Detector):
    """Counts green tokens.

    Args:
        key: The key.
    """

    def __init__(self, key: WatermarkKey) -> None:
        self._bits = Bits(key, _PURPOSE)

    def weigh(self, tokens: Sequence[int]) -> Evidence:
        """See `Detector.weigh`."""
        green = [bool(self._bits.words(context, token, 1)[0] < _GREEN) for _, context, token in scored(tokens)]
        return Evidence(len(green), min(0.0, log_binomial_tail(len(green), sum(green), math.log(GAMMA))))

    def excess(self, tokens: Sequence[int], messages: Sequence[int]) -> list[tuple[int, float]]:
        """See `Detector.excess`: green tokens, a quarter without a mark, are about half with one."""
        return [
            (position, 1.4 if self._bits.words(context, token, 1)[0] < _GREEN else -0.9)
            for position, context, token in scored(tokens)
        ]
