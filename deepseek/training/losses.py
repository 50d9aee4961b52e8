"""Losses: means over the targets that count, and how many of them there are.

The count is what makes several ranks, or batches of unequal size, agree with one: a rank's mean enters the global mean
with its own number of targets as weight. A loss is any callable `(outputs, target) -> scalar`; without a method
`count` it is taken to be a mean over samples.

Shapes: B samples, C classes, L positions, V vocabulary; `...` any leading dimensions.
"""

from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import InvalidArgument

IGNORED = -1
"""Target of a place that does not count, e.g. the padding of repeated labels."""
PADDING = 0
"""Token that fills up short texts (`deepseek.data.encoders.PAD`)."""


class CountingLoss(Protocol):
    """A loss that knows how many targets its mean is over."""

    def __call__(self, outputs: Any, target: Any) -> Tensor:
        """Returns the mean loss over the targets that count, 0 if there are none; float32 []."""

    def count(self, target: Any) -> Tensor:
        """Returns the number of targets that count, int64 []."""


def count_targets(loss: Any, target: Any) -> Tensor:
    """Returns over how many targets a loss is the mean, int64 []: by its `count`, else the number of samples."""
    if hasattr(loss, "count"):
        count: Tensor = loss.count(target)
        return count
    return torch.tensor(len(target))


class CrossEntropy:
    """Cross-entropy of class numbers; targets of -1 are ignored.

    Args:
        label_smoothing: Share of the target that is spread over all classes (Szegedy et al. 2016), 0 to 1.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        if not 0.0 <= label_smoothing <= 1.0:
            message = f"label_smoothing is {label_smoothing}; it must be from 0 to 1"
            raise InvalidArgument("BAD_VALUE", message, field="label_smoothing")
        self._label_smoothing = label_smoothing

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Returns the mean loss, float32 [].

        Args:
            outputs: Logits, float [..., C].
            target: Class numbers, int64 [...].
        """
        check_one_tensor(outputs, "the loss cross_entropy")
        if outputs.shape[:-1] != target.shape or target.is_floating_point():
            message = f"outputs {list(outputs.shape)} and target {list(target.shape)} ({target.dtype})"
            raise InvalidArgument("WRONG_SHAPE", f"cross-entropy needs [..., C] and class numbers [...], not {message}")
        return _mean_cross_entropy(outputs, target, IGNORED, self._label_smoothing)

    def count(self, target: Tensor) -> Tensor:
        """Returns the number of targets that are not -1, int64 []."""
        return (target != IGNORED).sum()


class NextTokenCrossEntropy:
    """Cross-entropy of each token given those before it; padding is not predicted.

    Args:
        padding: Token that fills up short texts.
    """

    def __init__(self, padding: int = PADDING) -> None:
        self._padding = padding

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Returns the mean loss over the tokens to predict, float32 [].

        Args:
            outputs: Logits, float [B, L, V]; those at position t predict token t + 1.
            target: Tokens, int64 [B, L].
        """
        check_one_tensor(outputs, "the loss next_token_cross_entropy")
        return _mean_cross_entropy(outputs[:, :-1], next_tokens(target, self._padding), IGNORED, 0.0)

    def count(self, target: Tensor) -> Tensor:
        """Returns the number of tokens to predict, int64 []."""
        return (next_tokens(target, self._padding) != IGNORED).sum()


class MeanSquaredError:
    """Mean of squared differences, over all elements."""

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Returns the mean, float32 [].

        Args:
            outputs: Float [B, ...]; a last dimension of 1 that the target lacks is dropped.
            target: Numbers of the same shape.
        """
        check_one_tensor(outputs, "the loss mse")
        if outputs.shape == (*target.shape, 1):
            outputs = outputs.squeeze(-1)
        if outputs.shape != target.shape:
            message = f"outputs {list(outputs.shape)} and target {list(target.shape)} differ in shape"
            raise InvalidArgument("WRONG_SHAPE", message)
        return F.mse_loss(outputs, target.to(outputs.dtype))

    def count(self, target: Tensor) -> Tensor:
        """Returns the number of elements, int64 []."""
        return torch.tensor(target.numel())


def check_one_tensor(outputs: Any, user: str) -> None:
    """Checks that a model returns one tensor, as built-in losses and metrics require.

    Raises:
        InvalidArgument: WRONG_SHAPE; the message begins with `user`, the loss or metric that uses the outputs.
    """
    if not isinstance(outputs, Tensor):
        message = f"{user} needs a model that returns one tensor, not a {type(outputs).__name__}; write one of your own"
        raise InvalidArgument("WRONG_SHAPE", message)


def next_tokens(target: Tensor, padding: int) -> Tensor:
    """Returns what each position but the last has to predict, int64 [B, L - 1]; -1 for padding."""
    following = target[:, 1:]
    return following.masked_fill(following == padding, IGNORED)


def _mean_cross_entropy(outputs: Tensor, target: Tensor, ignored: int, label_smoothing: float) -> Tensor:
    logits, flat = outputs.flatten(0, -2), target.flatten()
    total = F.cross_entropy(logits, flat, ignore_index=ignored, reduction="sum", label_smoothing=label_smoothing)
    # Not reduction="mean", which is NaN where nothing counts.
    return total / (flat != ignored).sum().clamp(min=1)
