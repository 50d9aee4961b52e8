"""A small transformer that predicts the next character or word of a text.

It uses RMS normalization (Zhang and Sennrich 2019, arXiv:1910.07467) before each sublayer (Xiong et al. 2020,
arXiv:2002.04745), rotary position embeddings (Su et al. 2021, arXiv:2104.09864), no biases, and one embedding shared by
input and output (Press and Wolf 2017, arXiv:1608.05859). It is useful only for texts up to the length of those it was
trained on. It has no key-value cache, because it is meant for training and scoring, not for generating long texts.

Shapes: B texts, L characters, V tokens, D features, N heads, K features per head.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import InvalidArgument
from deepseek.models.arguments import check_dropout, check_positive

_ROTARY_BASE = 10_000.0
_EXPANSION = 4


class CharacterTransformer(nn.Module):
    """Transformer that predicts the next token of a text. Build it with `transformer_lm` or `character_lm`."""

    def __init__(self, vocabulary: int, width: int, depth: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(Block(width, num_heads, _EXPANSION, dropout) for _ in range(depth))
        self.norm = nn.RMSNorm(width)
        self.head_features = width // num_heads
        initialize(self)

    def forward(self, text: Tensor) -> Tensor:
        """Returns the logits of the next token at every position, float [B, L, V].

        The logits at position t depend only on the tokens up to position t.

        Args:
            text: Token ids, int64 [B, L].
        """
        x_BLD = self.tokens(text)
        turns = rotation(text.shape[1], self.head_features, x_BLD.device)
        for block in self.blocks:
            x_BLD = block(x_BLD, turns)
        logits_BLV: Tensor = F.linear(self.norm(x_BLD), self.tokens.weight)
        return logits_BLV


class Block(nn.Module):
    """A layer of a transformer: causal self-attention, then a feed-forward network.

    Args:
        width: Number of features per position.
        num_heads: Number of attention heads; `width` must be a multiple of twice this number.
        expansion: Hidden features of the feed-forward network, as a multiple of `width`.
        dropout: Probability that a feature is dropped in training.
    """

    def __init__(self, width: int, num_heads: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.head_features = width // num_heads
        self.attention_norm = nn.RMSNorm(width)
        self.query_key_value = nn.Linear(width, 3 * width, bias=False)
        self.attention_out = nn.Linear(width, width, bias=False)
        self.feed_norm = nn.RMSNorm(width)
        self.feed_in = nn.Linear(width, expansion * width, bias=False)
        self.feed_out = nn.Linear(expansion * width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x_BLD: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
        """Maps features [B, L, D] to features of the same shape.

        Args:
            x_BLD: Features.
            turns: Result of `rotation` for the head features of this block.
        """
        queries_keys_values = self.query_key_value(self.attention_norm(x_BLD)).chunk(3, dim=-1)
        query, key, value = (
            part.unflatten(-1, (self.num_heads, self.head_features)).transpose(1, 2) for part in queries_keys_values
        )
        attended_BNLK = F.scaled_dot_product_attention(
            _rotate(query, turns), _rotate(key, turns), value, is_causal=True
        )
        x_BLD = x_BLD + self.dropout(self.attention_out(attended_BNLK.transpose(1, 2).flatten(2)))
        fed_BLD: Tensor = self.feed_out(F.gelu(self.feed_in(self.feed_norm(x_BLD))))
        out_BLD: Tensor = x_BLD + self.dropout(fed_BLD)
        return out_BLD


def initialize(model: nn.Module) -> None:
    """Draws the weights of embeddings and products from a normal distribution, as in GPT-2."""
    for parameter in model.parameters():
        if parameter.ndim == 2:
            nn.init.normal_(parameter, std=0.02)


def rotation(length: int, features: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Returns the cosines and sines of the rotation angles of all positions, each [L, K / 2]."""
    frequencies = _ROTARY_BASE ** (-torch.arange(0, features, 2, device=device, dtype=torch.float32) / features)
    angles = torch.arange(length, device=device, dtype=torch.float32)[:, None] * frequencies
    return angles.cos(), angles.sin()


def _rotate(x_BNLK: Tensor, turns: tuple[Tensor, Tensor]) -> Tensor:
    cos, sin = (part.to(x_BNLK.dtype) for part in turns)
    first, second = x_BNLK.chunk(2, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos), dim=-1)


def character_lm(
    vocabulary: int = 128, width: int = 128, depth: int = 4, num_heads: int = 4, dropout: float = 0.0
) -> CharacterTransformer:
    """Transformer that predicts the next character of a text, with 0.8 million parameters by default.

    Args:
        vocabulary: Number of tokens, including the special ones.
        width: Number of features per position.
        depth: Number of transformer blocks.
        num_heads: Number of attention heads; `width` must be a multiple of twice this number.
        dropout: Probability that a feature is dropped in training; at least 0 and below 1.

    Raises:
        InvalidArgument: BAD_VALUE, with the name of the invalid argument as the field.
    """
    return transformer_lm(vocabulary, width, depth, num_heads, dropout)


def transformer_lm(
    vocabulary: int, width: int = 128, depth: int = 4, num_heads: int = 4, dropout: float = 0.1
) -> CharacterTransformer:
    """Transformer that predicts the next word or character of a text, with 0.8 million parameters plus the vocabulary.

    Its input `text` and the target take the output of the same encoder, `words` or `characters`. Use it with the loss
    `next_token_cross_entropy`.

    Args:
        vocabulary: Number of tokens, including the special ones. In a run spec, its default is that of the encoder.
        width: Number of features per position.
        depth: Number of transformer blocks.
        num_heads: Number of attention heads; `width` must be a multiple of twice this number.
        dropout: Probability that a feature is dropped in training; at least 0 and below 1.

    Raises:
        InvalidArgument: BAD_VALUE, with the name of the invalid argument as the field.
    """
    check_positive({"vocabulary": vocabulary, "width": width, "depth": depth, "num_heads": num_heads})
    if width % (2 * num_heads):
        message = f"width is {width}; it must be a multiple of {2 * num_heads}, twice the number of heads"
        raise InvalidArgument("BAD_VALUE", message, field="width")
    check_dropout(dropout)
    return CharacterTransformer(vocabulary, width, depth, num_heads, dropout)
