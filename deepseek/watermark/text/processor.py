"""A logits processor that marks text in a third-party generation loop, such as `generate` of `transformers`.

A logits processor is called between the model and the draw: it takes the tokens so far and the logits of the next
token, and returns changed logits. This processor draws the token itself and excludes all others. So put it after
all other processors (temperature, top-k, repetition), and enable sampling. This module imports neither `transformers`
nor torch.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deepseek.watermark.text.scheme import Sampler


class WatermarkLogitsProcessor:
    """Marks the sequences of a batch. Not thread-safe; create a new processor for each call to `generate`.

    Args:
        make_sampler: Function that maps the index of a row to a new sampler. Each row may carry a different id. If the
            tokens of a row are replaced, as in a beam search, the function is called again for that row.
    """

    def __init__(self, make_sampler: Callable[[int], Sampler]) -> None:
        self._make_sampler = make_sampler
        self._prompt_length: int | None = None
        self._rows: dict[int, tuple[Sampler, list[int]]] = {}

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Returns logits that are -inf for all but one token per row.

        Args:
            input_ids: Tokens so far, int64 (batch, length): at the first call the prompts, later the prompts followed
                by the drawn tokens.
            scores: Logits, float (batch, vocabulary).
        """
        if self._prompt_length is None:
            self._prompt_length = input_ids.shape[1]
        marked = scores.new_full(scores.shape, -np.inf)
        generated = input_ids[:, self._prompt_length :].tolist()
        for row, tokens in enumerate(generated):
            token = self._sampler(row, tokens).choose(scores[row].detach().double().cpu().numpy())
            marked[row, token] = 0.0
        return marked

    def _sampler(self, row: int, tokens: Sequence[int]) -> Sampler:
        """Returns the row's sampler after it has observed all of these tokens."""
        sampler, known = self._rows.get(row, (None, []))
        if sampler is None or list(tokens[: len(known)]) != known:
            sampler, known = self._make_sampler(row), []
            self._rows[row] = sampler, known
        for token in tokens[len(known) :]:
            sampler.observe(token)
            known.append(token)
        return sampler
