"""Metrics. Each metric is computed from sums that are added up over batches and ranks.

The sums are added in float64, which is exact for counts up to 2^53. An accuracy therefore does not depend on the batch
size or the number of ranks.

In shapes, B stands for samples, C for classes, L for positions, V for the tokens of the vocabulary, and `...` for any
leading dimensions.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import InvalidArgument
from deepseek.training.losses import IGNORED, PADDING, check_one_tensor, next_tokens


class Metric(ABC):
    """Base class of metrics. A metric is a number computed over many batches. A `Metric` object holds no state.

    Attributes:
        name: Name of the metric in results.
        num_sums: Length of the tensor that `sums` returns.
        greater_is_better: Whether a higher value is better.
    """

    name: ClassVar[str]
    num_sums: int = 2
    greater_is_better: ClassVar[bool] = True

    @abstractmethod
    def sums(self, outputs: Any, target: Any) -> Tensor:
        """Returns the sums of one batch, shape [num_sums], of any numeric type.

        Args:
            outputs: The model's outputs, in float32.
            target: The batch's target.
        """

    def result(self, sums: Sequence[float]) -> float:
        """Returns the metric: by default, the first sum divided by the second, or NaN if the second is 0."""
        return sums[0] / sums[1] if sums[1] else math.nan


class Accuracy(Metric):
    """Share of targets whose class is predicted; targets of -1 are ignored.

    The predicted class is the one with the highest logit. If the model has a single logit, it is 1 if the logit is
    above 0, and otherwise 0.
    """

    name = "accuracy"

    def sums(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Returns how many targets are predicted correctly, and how many there are. Ignored targets count in neither.

        Args:
            outputs: Logits, float [..., C]; or the logits of the class 1 of two classes, [...] or [..., 1].
            target: Class indices, [...].
        """
        predicted, target = predictions(outputs, target, "the metric accuracy")
        valid = target != IGNORED
        return torch.stack([((predicted == target) & valid).sum(), valid.sum()])


class NextTokenAccuracy(Metric):
    """Share of tokens that are predicted correctly from the tokens before them; padding tokens are ignored.

    Args:
        padding: Id of the token that pads short texts.
    """

    name = "next_token_accuracy"

    def __init__(self, padding: int = PADDING) -> None:
        self._padding = padding

    def sums(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Returns the number of correctly predicted tokens and the number of all tokens to predict.

        Args:
            outputs: Logits, float [B, L, V].
            target: Token ids, int64 [B, L].
        """
        check_one_tensor(outputs, "the metric next_token_accuracy")
        return Accuracy().sums(outputs[:, :-1], next_tokens(target, self._padding))


class Perplexity(Metric):
    """Exponential of the mean cross-entropy of next-token predictions; padding tokens are ignored.

    Args:
        padding: Id of the token that pads short texts.
    """

    name = "perplexity"
    greater_is_better = False

    def __init__(self, padding: int = PADDING) -> None:
        self._padding = padding

    def sums(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Returns the sum of the negative log-likelihoods of the tokens to predict, and the number of these tokens.

        Args:
            outputs: Logits, float [B, L, V].
            target: Token ids, int64 [B, L].
        """
        check_one_tensor(outputs, "the metric perplexity")
        following = next_tokens(target, self._padding)
        logits = outputs[:, :-1].flatten(0, -2)
        total = F.cross_entropy(logits, following.flatten(), ignore_index=IGNORED, reduction="sum")
        return torch.stack([total.double(), (following != IGNORED).sum().double()])

    def result(self, sums: Sequence[float]) -> float:
        mean = super().result(sums)
        return math.exp(mean) if mean < 700 else math.inf if mean >= 700 else math.nan


def predictions(outputs: Any, target: Tensor, user: str) -> tuple[Tensor, Tensor]:
    """Returns the predicted and the expected class of each target, int64 [...].

    Args:
        outputs: Logits, float [..., C]; or the logits of the class 1 of two classes, [...] or [..., 1].
        target: Class indices, [...]; a float target must hold whole numbers.
        user: Name of the metric, for messages.

    Raises:
        InvalidArgument: WRONG_SHAPE if the outputs do not fit the target.
    """
    check_one_tensor(outputs, user)
    if outputs.shape == target.shape or outputs.shape == (*target.shape, 1):
        return (outputs.reshape(target.shape) > 0).long(), target.long()
    if outputs.shape[:-1] != target.shape:
        shapes = f"{list(outputs.shape)} and {list(target.shape)}"
        message = f"{user} needs outputs of shape [..., C] and targets of shape [...], not {shapes}"
        raise InvalidArgument("WRONG_SHAPE", message)
    return outputs.argmax(-1), target.long()
