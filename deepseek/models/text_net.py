"""A classifier of short or long texts, over the encoders `words` and `characters`.

It combines two views of a text: the weighted sum of its tokens' embeddings, which tells the topic (fastText, Joulin et
al. 2017, arXiv:1607.01759), and the strongest response to learned phrases (Kim 2014, arXiv:1408.5882). The weights are
learned. They start from the logarithm of the token id: the encoders number tokens by falling frequency, so by Zipf's
law this is, up to a constant, the inverse document frequency of TF-IDF.

Shapes: B texts, L tokens, D features, K classes.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from common.errors import InvalidArgument
from deepseek.models.arguments import check_dropout, check_positive

PAD = 0
"""Token id that pads short texts."""

_SCALE = 0.1
"""Standard deviation of the initial embeddings; the features of a text then have about this size, too."""
_MIN_SQUARE = 1e-6


class TextClassifier(nn.Module):
    """Classifier of texts. Build it with `text_classifier`."""

    def __init__(self, vocabulary: int, num_classes: int, width: int, phrases: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.phrases = phrases
        self.tokens = nn.Embedding(vocabulary, width, padding_idx=PAD)
        self.weights = nn.Embedding(vocabulary, 1, padding_idx=PAD)
        with torch.no_grad():
            self.tokens.weight.mul_(_SCALE)
            self.weights.weight.copy_(torch.arange(vocabulary).add(1).log().div(math.log(vocabulary)).unsqueeze(1))
        self.convolutions = nn.ModuleList(nn.Conv1d(width, width, length) for length in phrases)
        self.dropout = nn.Dropout(dropout)
        self.classes = nn.Linear((1 + len(phrases)) * width, num_classes)

    def forward(self, text: Tensor) -> Tensor:
        """Returns the logits of every class, float [B, K].

        Args:
            text: Token ids, int64 [B, L]; 0 is padding.

        Raises:
            InvalidArgument: WRONG_TYPE if `text` has another number of dimensions.
        """
        if text.ndim != 2:
            message = f"text has the shape {tuple(text.shape)}; use token ids [B, L], from a field that is not repeated"
            raise InvalidArgument("WRONG_TYPE", message, field="text")
        embedded_BLD = self.dropout(self.tokens(text))
        # The weight of padding is 0, because log(1) is. An empty text has the sum 0.
        weights_BL1 = self.weights(text)
        norm_B1 = weights_BL1.square().sum(1).clamp(min=_MIN_SQUARE).sqrt()
        views = [(weights_BL1 * embedded_BLD).sum(1) / norm_B1]
        for length, convolution in zip(self.phrases, self.convolutions, strict=True):
            # Padded so that a phrase may begin or end anywhere, even in a text of one token.
            padded_BDL = F.pad(embedded_BLD.transpose(1, 2), (length - 1, length - 1))
            views.append(F.relu(convolution(padded_BDL)).amax(2))
        logits: Tensor = self.classes(self.dropout(torch.cat(views, 1)))
        return logits


def text_classifier(
    vocabulary: int,
    num_classes: int,
    width: int = 64,
    phrases: tuple[int, ...] = (2, 3),
    dropout: float = 0.3,
) -> TextClassifier:
    """Classifier of texts: the weighted sum of the token embeddings, and convolutions over phrases.

    Its input `text` takes the output of the encoder `words` or `characters`.

    Args:
        vocabulary: Number of token ids, including the special ones. In a run spec, its default is that of the encoder.
        num_classes: Number of classes; 1 to predict a number. In a run spec, its default is the number of the target's
            labels.
        width: Number of features per token.
        phrases: Lengths of the phrases in tokens; none for a classifier that ignores the order of tokens.
        dropout: Probability that a feature is dropped in training; at least 0 and below 1.

    Raises:
        InvalidArgument: BAD_VALUE, with the name of the invalid argument as the field.
    """
    check_positive({"vocabulary": vocabulary, "num_classes": num_classes, "width": width})
    check_positive({f"phrases[{i}]": length for i, length in enumerate(phrases)})
    check_dropout(dropout)
    return TextClassifier(vocabulary, num_classes, width, phrases, dropout)
