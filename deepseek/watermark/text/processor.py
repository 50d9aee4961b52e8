"""Marks for models that are run by somebody else's loop, such as `generate` of Hugging Face's `transformers`.

What is called there between a model and the draw is a LogitsProcessor: it takes the tokens so far and the logits of the
next, and returns other logits. This one leaves a single token possible, the one that carries the mark, so put it behind
all others (temperature, top-k, repetition) and let the loop sample. It needs no `transformers`, and of torch only the
tensors that it is given.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from deepseek.watermark.text.scheme import Sampler


class WatermarkLogitsProcessor:
    """Marks the sequences of a batch. Not thread-safe; make a new one for each call of `generate`.

    Args:
        make_sampler: Makes the sampler of a row, given its number: rows may carry ids of their own. It is called again
            for a row whose tokens are replaced by others, as a beam search does.
    """

    def __init__(self, make_sampler: Callable[[int], Sampler]) -> None:
        self._make_sampler = make_sampler
        self._prompt_length: int | None = None
        self._rows: dict[int, tuple[Sampler, list[int]]] = {}

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        """Returns logits of which all but one a row are -inf.

        Args:
            input_ids: (batch, length), int64: prompts at the first call, later with what was drawn behind them.
            scores: (batch, vocabulary), floats.
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
        """The row's sampler, behind these tokens."""
        sampler, known = self._rows.get(row, (None, []))
        if sampler is None or list(tokens[: len(known)]) != known:
            sampler, known = self._make_sampler(row), []
            self._rows[row] = sampler, known
        for token in tokens[len(known) :]:
            sampler.observe(token)
            known.append(token)
        return sampler
