"""The transformers of architecture search, built from a `deepseek.nas.transformer_space.TransformerSpec`.

They have the layers of `character_transformer`, but each layer has its own number of heads and its own feed-forward
network.

Shapes: B texts, L tokens, V token ids, D features.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from deepseek.models.arguments import check_dropout, check_positive
from deepseek.models.character_transformer import Block, initialize, rotation
from deepseek.nas.spec_values import check_size
from deepseek.nas.transformer_space import TransformerSpec


class SearchedTransformer(nn.Module):
    """Transformer that predicts the next token of a text. Build it with `searched_transformer`."""

    def __init__(self, spec: TransformerSpec, vocabulary: int, dropout: float) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, spec.width)
        self.blocks = nn.ModuleList(Block(spec.width, one.heads, one.mlp_ratio, dropout) for one in spec.layers)
        self.norm = nn.RMSNorm(spec.width)
        self.head_features = [spec.width // one.heads for one in spec.layers]
        initialize(self)

    def forward(self, text: Tensor) -> Tensor:
        """Returns the logits of the next token at every position, float [B, L, V].

        The logits at position t depend only on the tokens up to position t.

        Args:
            text: Token ids, int64 [B, L].
        """
        x_BLD = self.tokens(text)
        turns = {one: rotation(text.shape[1], one, x_BLD.device) for one in sorted(set(self.head_features))}
        for block, features in zip(self.blocks, self.head_features, strict=True):
            x_BLD = block(x_BLD, turns[features])
        logits_BLV: Tensor = F.linear(self.norm(x_BLD), self.tokens.weight)
        return logits_BLV


def searched_transformer(
    vocabulary: int, width: int, layers: list[Mapping[str, Any]], dropout: float = 0.1
) -> SearchedTransformer:
    """Transformer that predicts the next token, with layers of different sizes, e.g. from an architecture search.

    Its input `text` and the target take the output of the same encoder, `words` or `characters`. Use it with the loss
    `next_token_cross_entropy`.

    Args:
        vocabulary: Number of token ids, including the special ones. In a run spec, its default is that of the encoder.
        width: Number of features per position; a multiple of twice the heads of every layer.
        layers: The layers, in order; each with `heads` and `mlp_ratio` (docs/nas.md).
        dropout: Probability that a feature is dropped in training; at least 0 and below 1.

    Raises:
        InvalidArgument: BAD_VALUE, UNKNOWN_FIELD or MISSING_FIELD, with the path of the invalid argument as the field.
    """
    spec = TransformerSpec.from_json({"width": width, "layers": layers})
    check_positive({"vocabulary": vocabulary})
    check_size(spec.cost(vocabulary, 1).parameters, "vocabulary")
    check_dropout(dropout)
    return SearchedTransformer(spec, vocabulary, dropout)
