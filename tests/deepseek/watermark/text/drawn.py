"""Prints tokens that samplers draw for fixed keys and logits, so that they can be compared across processors.

`python -m tests.deepseek.watermark.text.drawn` prints a JSON object: the extensions that NumPy uses, under "simd", and
for each kind of logits every third token of 24, after the tokens 1 and 2.
"""

import json
from collections.abc import Callable

import numpy as np

from deepseek.watermark.keys import derive_key
from deepseek.watermark.text.gumbel import GumbelSampler
from deepseek.watermark.text.reed_solomon import IdCode

KEY = derive_key(bytes(32), tenant="lab", modality="text", epoch=0)
NUM_WORDS, NUM_TOKENS = 50_000, 24

Model = Callable[[np.random.Generator], np.ndarray]

MODELS: dict[str, Model] = {
    "flat": lambda random: np.zeros(NUM_WORDS, np.float32),
    "ten nats": lambda random: random.permutation(np.linspace(0, 10, NUM_WORDS)).astype(np.float32),
    "forty nats": lambda random: random.permutation(np.linspace(-40, 0, NUM_WORDS)),
    "fifty words": lambda random: np.where(random.random(NUM_WORDS) < 1e-3, 0, -np.inf).astype(np.float32),
}


def drawn(model: Model) -> list[int]:
    """Every third token of a text."""
    sampler = GumbelSampler(KEY, 0xABCDEF, IdCode(), np.random.default_rng(0))
    for token in (1, 2):
        sampler.observe(token)
    random = np.random.default_rng(0)
    return [sampler.draw(model(random)) for _ in range(NUM_TOKENS)][::3]


if __name__ == "__main__":
    simd = np.show_config("dicts")["SIMD Extensions"].get("found", [])
    print(json.dumps({"simd": simd} | {name: drawn(model) for name, model in MODELS.items()}))
