"""Metrics as sums that add up exactly over batches and ranks, and one figure made of the sums at the end.

Counts are summed as float64, which is exact up to 2^53, so an accuracy does not depend on batch size or world size.

Shapes: B samples, C classes, L positions, V vocabulary; `...` any leading dimensions.
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
    """One figure over many batches; holds no state of its own.

    Attributes:
        name: What the figure is called in results.
        num_sums: How many sums it needs.
        greater_is_better: Whether a greater figure is the better one.
    """

    name: ClassVar[str]
    num_sums: ClassVar[int] = 2
    greater_is_better: ClassVar[bool] = True

    @abstractmethod
    def sums(self, outputs: Any, target: Any) -> Tensor:
        """Returns what one batch adds to the sums, [num_sums] of any number type.

        Args:
            outputs: The model's outputs, in float32.
            target: The batch's target.
        """

    def result(self, sums: Sequence[float]) -> float:
        """Returns the figure; by default the first sum over the second, NaN if that is 0."""
        return sums[0] / sums[1] if sums[1] else math.nan


class Accuracy(Metric):
    """Share of targets whose class has the greatest logit; targets of -1 do not count."""

    name = "accuracy"

    def sums(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Counts the right ones and all. Args: outputs [..., C], target int64 [...]."""
        check_one_tensor(outputs, "the metric accuracy")
        if outputs.shape[:-1] != target.shape:
            message = f"accuracy needs outputs [..., C], not {list(outputs.shape)} for targets {list(target.shape)}"
            raise InvalidArgument("WRONG_SHAPE", message)
        valid = target != IGNORED
        return torch.stack([((outputs.argmax(-1) == target) & valid).sum(), valid.sum()])


class NextTokenAccuracy(Metric):
    """Share of tokens that are predicted right from those before them; padding does not count.

    Args:
        padding: Token that fills up short texts.
    """

    name = "next_token_accuracy"

    def __init__(self, padding: int = PADDING) -> None:
        self._padding = padding

    def sums(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Counts the right ones and all. Args: outputs [B, L, V], target int64 [B, L]."""
        check_one_tensor(outputs, "the metric next_token_accuracy")
        return Accuracy().sums(outputs[:, :-1], next_tokens(target, self._padding))


class Perplexity(Metric):
    """exp of the mean cross-entropy of each token given those before it; padding does not count.

    Args:
        padding: Token that fills up short texts.
    """

    name = "perplexity"
    greater_is_better = False

    def __init__(self, padding: int = PADDING) -> None:
        self._padding = padding

    def sums(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Sums the negative log-likelihood and counts. Args: outputs [B, L, V], target int64 [B, L]."""
        check_one_tensor(outputs, "the metric perplexity")
        following = next_tokens(target, self._padding)
        logits = outputs[:, :-1].flatten(0, -2)
        total = F.cross_entropy(logits, following.flatten(), ignore_index=IGNORED, reduction="sum")
        return torch.stack([total.double(), (following != IGNORED).sum().double()])

    def result(self, sums: Sequence[float]) -> float:
        mean = super().result(sums)
        return math.exp(mean) if mean < 700 else math.inf if mean >= 700 else math.nan
