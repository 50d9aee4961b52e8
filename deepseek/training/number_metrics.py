"""Metrics of predicted numbers: RMSE, mean absolute error and R². See `deepseek.training.metrics`.

Sums of float64 values depend on their order by at most a few units in the last place, i.e. about 1e-15 of the figure.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from deepseek.training.losses import matching
from deepseek.training.metrics import Metric


class RootMeanSquaredError(Metric):
    """Square root of the mean squared error over all elements, in the unit of the target."""

    name = "rmse"
    greater_is_better = False

    def sums(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Returns the sum of the squared errors and the number of elements, float64 [2].

        Args:
            outputs: Predictions, float [B, ...]; a trailing dimension of size 1 is dropped if the target lacks it.
            target: Expected values, of the same shape.
        """
        errors = _errors(outputs, target, self.name)
        return torch.stack([errors.square().sum(), errors.new_tensor(errors.numel())])

    def result(self, sums: Sequence[float]) -> float:
        return math.sqrt(super().result(sums))


class MeanAbsoluteErrorMetric(Metric):
    """Mean absolute error over all elements, in the unit of the target."""

    name = "mae"
    greater_is_better = False

    def sums(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Returns the sum of the absolute errors and the number of elements, float64 [2].

        Args:
            outputs: Predictions, float [B, ...]; a trailing dimension of size 1 is dropped if the target lacks it.
            target: Expected values, of the same shape.
        """
        errors = _errors(outputs, target, self.name)
        return torch.stack([errors.abs().sum(), errors.new_tensor(errors.numel())])


class R2(Metric):
    """Coefficient of determination over all elements: 1 for a perfect prediction, 0 for one as good as the mean.

    It is NaN if all targets are equal. It loses the digits by which the mean of the targets exceeds their spread: about
    ten digits are left if the mean is 1000 times the standard deviation.
    """

    name = "r2"
    num_sums = 4

    def sums(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Returns the sums of squared errors, of targets and of squared targets, and their number, float64 [4].

        Args:
            outputs: Predictions, float [B, ...]; a trailing dimension of size 1 is dropped if the target lacks it.
            target: Expected values, of the same shape.
        """
        errors, values = _errors(outputs, target, self.name), target.double()
        count = errors.new_tensor(errors.numel())
        return torch.stack([errors.square().sum(), values.sum(), values.square().sum(), count])

    def result(self, sums: Sequence[float]) -> float:
        errors, total, squares, count = sums
        spread = squares - total * total / count if count else 0.0
        return 1 - errors / spread if spread > 0 else math.nan


def _errors(outputs: Tensor, target: Tensor, name: str) -> Tensor:
    return matching(outputs, target, f"the metric {name}").double() - target.double()
