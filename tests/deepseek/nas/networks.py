"""Small spaces and networks for tests of architecture search."""

from typing import Any

import torch

from deepseek.models import searched_cnn, searched_transformer
from deepseek.models.searched_conv_net import SearchedConvNet
from deepseek.models.searched_transformer_net import SearchedTransformer
from deepseek.nas.conv_space import ConvSpace, ConvSpec, StageChoices
from deepseek.nas.transformer_space import TransformerSpace, TransformerSpec

CHOICES = StageChoices(depths=(1, 2), widths=(4, 8), poolings=("none", "stride", "max", "average"))
CONV = ConvSpace(stems=(4, 8), stages=(CHOICES, CHOICES), heads=(0, 16))
TRANSFORMERS = TransformerSpace(widths=(8, 16), depths=(1, 3), heads=(1, 2), mlp_ratios=(1, 3))
SPACES: list[Any] = [CONV, TRANSFORMERS, ConvSpace(), TransformerSpace()]

STAGE = {
    "block": "dense",
    "depth": 1,
    "width": 8,
    "kernel": 3,
    "expansion": 1,
    "skip": True,
    "squeeze": False,
    "pooling": "none",
}


def conv_spec(*stages: dict[str, Any], stem: int = 4, head: int = 0) -> ConvSpec:
    """A network whose stages differ from `STAGE` in the given members."""
    return ConvSpec.from_json({"stem": stem, "stages": [STAGE | one for one in stages], "head": head})


def build(spec: ConvSpec | TransformerSpec, *, seed: int = 0) -> SearchedConvNet | SearchedTransformer:
    """A network for grey images of 3 classes, or for texts of 11 tokens."""
    torch.manual_seed(seed)
    if isinstance(spec, ConvSpec):
        return searched_cnn(3, channels=1, **spec.to_json())
    return searched_transformer(11, dropout=0.0, **spec.to_json())
