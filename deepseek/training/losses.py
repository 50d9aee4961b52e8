"""Losses. Each returns the mean over all targets that are not ignored, and can also count these targets.

When the means of several ranks are averaged, each is weighted by its number of targets, or by the sum of the targets'
weights, so the result is the same as if one rank had processed all samples. Any callable `(outputs, target) -> scalar`
can be a loss. If the callable has no method `count`, its result is treated as a mean over samples.

In shapes, B stands for samples, C for classes, L for positions, V for the tokens of the vocabulary, and `...` for any
leading dimensions.
"""

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import InvalidArgument

IGNORED = -1
"""Target value that marks positions to ignore, e.g. the padding of a list of labels."""
PADDING = 0
"""Id of the token that pads short texts (`deepseek.data.encoders.PAD`)."""


class CountingLoss(Protocol):
    """A loss that can also return the number of targets over which it averages."""

    def __call__(self, outputs: Any, target: Any) -> Tensor:
        """Returns the mean loss over the targets that are not ignored, as a float32 scalar; 0 if all are ignored."""

    def count(self, target: Any) -> Tensor:
        """Returns the number of targets that are not ignored, or the sum of their weights, as a scalar."""


def count_targets(loss: Any, target: Any) -> Tensor:
    """Returns the number of targets over which a loss averages, or the sum of their weights, as a scalar.

    If the loss has no method `count`, this is the number of samples.
    """
    if hasattr(loss, "count"):
        count: Tensor = loss.count(target)
        return count
    return torch.tensor(len(target))


class CrossEntropy:
    """Cross-entropy between logits and class indices; targets of -1 are ignored.

    Args:
        label_smoothing: Share of the target probability that is spread evenly over all classes, 0 to 1 (Szegedy
            et al. 2016).
        class_weights: Weight of each class in the mean, in the order of the labels, e.g. larger for rare classes;
            by default 1 for every class.
    """

    def __init__(self, label_smoothing: float = 0.0, class_weights: tuple[float, ...] | None = None) -> None:
        if not 0.0 <= label_smoothing <= 1.0:
            message = f"label_smoothing is {label_smoothing}; it must be from 0 to 1"
            raise InvalidArgument("BAD_VALUE", message, field="label_smoothing")
        if class_weights is not None and not (all(0 < weight < math.inf for weight in class_weights) and class_weights):
            message = f"class_weights is {list(class_weights)}; every class needs a finite weight above 0"
            raise InvalidArgument("BAD_VALUE", message, field="class_weights")
        self._label_smoothing = label_smoothing
        self._weights = None if class_weights is None else torch.tensor(class_weights)

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Returns the mean loss, as a float32 scalar.

        Args:
            outputs: Logits, float [..., C].
            target: Class indices, int64 [...].
        """
        check_one_tensor(outputs, "the loss cross_entropy")
        if outputs.shape[:-1] != target.shape or target.is_floating_point():
            message = f"outputs {list(outputs.shape)} and target {list(target.shape)} ({target.dtype})"
            raise InvalidArgument(
                "WRONG_SHAPE", f"cross-entropy needs outputs [..., C] and class indices [...], not {message}"
            )
        if self._weights is None:
            return _mean_cross_entropy(outputs, target, IGNORED, self._label_smoothing)
        if outputs.shape[-1] != len(self._weights):
            message = f"class_weights has {len(self._weights)} weights, but the model has {outputs.shape[-1]} classes"
            raise InvalidArgument("WRONG_SHAPE", message, field="class_weights")
        weights = self._weights.to(outputs)
        total = F.cross_entropy(
            outputs.flatten(0, -2),
            target.flatten(),
            weights,
            ignore_index=IGNORED,
            reduction="sum",
            label_smoothing=self._label_smoothing,
        )
        return total / _sum_of_weights(weights, target).clamp(min=torch.finfo(weights.dtype).tiny)

    def count(self, target: Tensor) -> Tensor:
        """Returns the number of targets that are not -1, or the sum of the weights of their classes, as a scalar.

        Raises:
            InvalidArgument: WRONG_SHAPE if a target's class has no weight.
        """
        if self._weights is None:
            return (target != IGNORED).sum()
        if target.numel() and (greatest := int(target.max())) >= len(self._weights):
            message = f"class_weights has {len(self._weights)} weights, but the target has the class {greatest}"
            raise InvalidArgument("WRONG_SHAPE", f"{message}; every class needs a weight", field="class_weights")
        return _sum_of_weights(self._weights.to(target.device, torch.float64), target)


class BinaryCrossEntropy:
    """Cross-entropy between logits and targets of two classes, 0 and 1; targets below 0 are ignored.

    Args:
        positive_weight: Weight of the class 1 in the loss, relative to the class 0; above 0.
    """

    def __init__(self, positive_weight: float = 1.0) -> None:
        if not 0.0 < positive_weight < math.inf:
            message = f"positive_weight is {positive_weight}; it must be finite and above 0"
            raise InvalidArgument("BAD_VALUE", message, field="positive_weight")
        self._positive_weight = positive_weight

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Returns the mean loss, as a float32 scalar.

        Args:
            outputs: Logits of the class 1, float [...]; a trailing dimension of size 1 is dropped if the target lacks
                it.
            target: Classes 0 and 1, or probabilities of the class 1, of any numeric type, [...].

        Raises:
            InvalidArgument: WRONG_SHAPE if the shapes differ; BAD_VALUE if a target is above 1.
        """
        outputs = matching(outputs, target, "the loss binary_cross_entropy")
        if (target > 1).any():
            message = f"the targets go up to {target.max().item()}; binary_cross_entropy takes the classes 0 and 1"
            raise InvalidArgument("BAD_VALUE", message, field="target")
        valid = target >= 0
        weight = torch.full_like(outputs, self._positive_weight)
        wanted = torch.where(valid, target, 0).to(outputs.dtype)
        losses = F.binary_cross_entropy_with_logits(outputs, wanted, pos_weight=weight, reduction="none")
        return torch.where(valid, losses, 0.0).sum() / valid.sum().clamp(min=1)

    def count(self, target: Tensor) -> Tensor:
        """Returns the number of targets that are not below 0, as an int64 scalar."""
        return (target >= 0).sum()


class NextTokenCrossEntropy:
    """Cross-entropy of each token given the tokens before it; padding tokens are ignored.

    Args:
        padding: Id of the token that pads short texts.
    """

    def __init__(self, padding: int = PADDING) -> None:
        self._padding = padding

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Returns the mean loss over the tokens to predict, as a float32 scalar.

        Args:
            outputs: Logits, float [B, L, V]; the logits at position t predict the token at position t + 1.
            target: Token ids, int64 [B, L].
        """
        check_one_tensor(outputs, "the loss next_token_cross_entropy")
        return _mean_cross_entropy(outputs[:, :-1], next_tokens(target, self._padding), IGNORED, 0.0)

    def count(self, target: Tensor) -> Tensor:
        """Returns the number of tokens to predict, as an int64 scalar."""
        return (next_tokens(target, self._padding) != IGNORED).sum()


class RegressionLoss(ABC):
    """Base class of losses that compare predicted with expected numbers, element by element.

    Attributes:
        name: Name of the loss in messages.
    """

    name: ClassVar[str]

    @abstractmethod
    def errors(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Returns the mean error over all elements of two tensors of the same shape and dtype, as a scalar."""

    def __call__(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Returns the mean loss over all elements, as a float32 scalar.

        Args:
            outputs: Predictions, float [B, ...]; a trailing dimension of size 1 is dropped if the target lacks it.
            target: Expected values, of the same shape.

        Raises:
            InvalidArgument: WRONG_SHAPE if the shapes differ.
        """
        outputs = matching(outputs, target, f"the loss {self.name}")
        return self.errors(outputs, target.to(outputs.dtype))

    def count(self, target: Tensor) -> Tensor:
        """Returns the number of elements, as an int64 scalar."""
        return torch.tensor(target.numel())


class MeanSquaredError(RegressionLoss):
    """Mean squared error over all elements."""

    name = "mse"

    def errors(self, outputs: Tensor, target: Tensor) -> Tensor:
        return F.mse_loss(outputs, target)


class MeanAbsoluteError(RegressionLoss):
    """Mean absolute error over all elements. It is less sensitive to outliers than the squared error."""

    name = "mae"

    def errors(self, outputs: Tensor, target: Tensor) -> Tensor:
        return F.l1_loss(outputs, target)


class Huber(RegressionLoss):
    """Huber loss (Huber 1964): half the squared error of small errors, and linear for large ones.

    Args:
        delta: Error at which the loss becomes linear, in the unit of the target; above 0.
    """

    name = "huber"

    def __init__(self, delta: float = 1.0) -> None:
        if not 0.0 < delta < math.inf:
            raise InvalidArgument("BAD_VALUE", f"delta is {delta}; it must be finite and above 0", field="delta")
        self._delta = delta

    def errors(self, outputs: Tensor, target: Tensor) -> Tensor:
        return F.huber_loss(outputs, target, delta=self._delta)


def matching(outputs: Any, target: Tensor, user: str) -> Tensor:
    """Returns outputs in the shape of the target: a trailing dimension of size 1 is dropped if the target lacks it.

    Raises:
        InvalidArgument: WRONG_SHAPE if the outputs are not one tensor of that shape. The message begins with `user`.
    """
    check_one_tensor(outputs, user)
    found: Tensor = outputs.squeeze(-1) if outputs.shape == (*target.shape, 1) else outputs
    if found.shape != target.shape:
        message = f"{user} needs outputs of the shape of the target, {list(target.shape)}, not {list(outputs.shape)}"
        raise InvalidArgument("WRONG_SHAPE", message)
    return found


def check_one_tensor(outputs: Any, user: str) -> None:
    """Checks that a model returns one tensor, as built-in losses and metrics require.

    Raises:
        InvalidArgument: WRONG_SHAPE if the outputs are anything else. The message begins with `user`, the name of the
            loss or metric that uses the outputs.
    """
    if not isinstance(outputs, Tensor):
        message = (
            f"{user} needs a model that returns one tensor, not a {type(outputs).__name__}; use a custom loss or metric"
        )
        raise InvalidArgument("WRONG_SHAPE", message)


def next_tokens(target: Tensor, padding: int) -> Tensor:
    """Returns the id of the next token at each position except the last, int64 [B, L - 1]; -1 for a padding token."""
    following = target[:, 1:]
    return following.masked_fill(following == padding, IGNORED)


def _sum_of_weights(weights: Tensor, target: Tensor) -> Tensor:
    return torch.where(target == IGNORED, 0.0, weights[target.clamp(min=0)]).sum()


def _mean_cross_entropy(outputs: Tensor, target: Tensor, ignored: int, label_smoothing: float) -> Tensor:
    logits, flat = outputs.flatten(0, -2), target.flatten()
    total = F.cross_entropy(logits, flat, ignore_index=ignored, reduction="sum", label_smoothing=label_smoothing)
    # reduction="mean" would return NaN if all targets are ignored.
    return total / (flat != ignored).sum().clamp(min=1)
