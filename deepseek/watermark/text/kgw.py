"""Green lists (KGW, Kirchenbauer et al. 2023): the key and the preceding tokens make some tokens green, i.e. likelier.

For each next token, a share `GAMMA` of the vocabulary is green, and `DELTA` is added to the logits of the green tokens.
The number of green tokens in unmarked text has a binomial distribution. The scheme changes the model's probabilities,
and its marks carry no id. The more plausible tokens the model has to choose from, the less text is needed for
detection. The scheme is included for comparison, and for users who already use it.
"""

import math
from collections.abc import Sequence

import numpy as np

from deepseek.watermark.keys import WatermarkKey
from deepseek.watermark.tail_bounds import log_binomial_tail
from deepseek.watermark.text.scheme import Bits, Detector, Evidence, Logits, Sampler, draw_from, scored, softmax

GAMMA = 0.25
DELTA = 2.0
_GREEN = np.uint64(GAMMA * 2**64)
_PURPOSE = "kgw"


class KgwSampler(Sampler):
    """Draws green tokens more often than others.

    Args:
        key: Key of the mark.
        random: Source of randomness for the draws; unpredictable by default.
    """

    def __init__(self, key: WatermarkKey, random: np.random.Generator | None = None) -> None:
        super().__init__(random)
        self._bits = Bits(key, _PURPOSE)

    def _marked(self, logits_V: Logits, context: tuple[int, ...]) -> int:
        green_V = self._bits.words(context, 0, len(logits_V)) < _GREEN
        return draw_from(softmax(logits_V + DELTA * green_V), self._random)


class KgwDetector(Detector):
    """Counts green tokens."""

    def __init__(self, key: WatermarkKey) -> None:
        self._bits = Bits(key, _PURPOSE)

    def weigh(self, tokens: Sequence[int]) -> Evidence:
        """See `Detector.weigh`."""
        green = [bool(self._bits.words(context, token, 1)[0] < _GREEN) for _, context, token in scored(tokens)]
        return Evidence(len(green), min(0.0, log_binomial_tail(len(green), sum(green), math.log(GAMMA))))

    def excess(self, tokens: Sequence[int], messages: Sequence[int]) -> list[tuple[int, float]]:
        """See `Detector.excess`. A quarter of the tokens are green in unmarked text, and about half in marked text."""
        return [
            (position, 1.4 if self._bits.words(context, token, 1)[0] < _GREEN else -0.9)
            for position, context, token in scored(tokens)
        ]
