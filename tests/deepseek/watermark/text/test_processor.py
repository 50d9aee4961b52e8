"""Marks in a third-party generation loop."""

import math

import numpy as np
import torch

from deepseek.watermark.keys import derive_key
from deepseek.watermark.text.gumbel import GumbelDetector, GumbelSampler
from deepseek.watermark.text.processor import WatermarkLogitsProcessor
from deepseek.watermark.text.reed_solomon import IdCode

CODE = IdCode()
KEY = derive_key(bytes(32), tenant="lab", modality="text", epoch=0)
PROMPT_LENGTH = 5


def sampler_of(row: int) -> GumbelSampler:
    return GumbelSampler(KEY, 1000 + row, CODE, np.random.default_rng(row))


def generate(processor: WatermarkLogitsProcessor, num_tokens: int, *, swap_at: int | None = None) -> torch.Tensor:
    """A loop like those of model libraries, with two rows and logits in half precision."""
    torch.manual_seed(0)
    input_ids = torch.zeros(2, PROMPT_LENGTH, dtype=torch.int64)
    for step in range(num_tokens):
        scores = (torch.rand(2, 128) * 6).half()
        if step == swap_at:
            input_ids = input_ids.flip(0)
        probabilities = processor(input_ids, scores).float().softmax(-1)
        input_ids = torch.cat([input_ids, torch.multinomial(probabilities, 1)], 1)
    return input_ids[:, PROMPT_LENGTH:]


def test_each_row_carries_its_id() -> None:
    for row, tokens in enumerate(generate(WatermarkLogitsProcessor(sampler_of), 150).tolist()):
        evidence = GumbelDetector(KEY, CODE).weigh(tokens)
        assert evidence.id == 1000 + row
        assert evidence.log_p_id < math.log(1e-6)


def test_rows_that_are_swapped_keep_their_marks() -> None:
    for tokens in generate(WatermarkLogitsProcessor(sampler_of), 60, swap_at=30).tolist():
        assert GumbelDetector(KEY, CODE).weigh(tokens).log_p < math.log(1e-6)


def test_a_row_that_is_restored_continues() -> None:
    made = []

    def counting(row: int) -> GumbelSampler:
        made.append(row)
        return sampler_of(row)

    generate(WatermarkLogitsProcessor(counting), 20, swap_at=10)
    assert sorted(made) == [0, 0, 1, 1]
