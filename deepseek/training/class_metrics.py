"""Metrics of classifiers: F1, precision, recall, AUC and top-k accuracy. See `deepseek.training.metrics`.

Their sums are counts per class, which are added exactly over batches and ranks. AUC adds up histograms of the scores.

In shapes, B stands for samples, C for classes, K for bins, and `...` for any leading dimensions.
"""

import math
from abc import abstractmethod
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from common.errors import InvalidArgument
from deepseek.training.losses import IGNORED, check_one_tensor
from deepseek.training.metrics import Metric, predictions

_AVERAGES = ("macro", "micro", "weighted")


class _ClassCounts(Metric):
    """Base class of metrics that follow from the true positives, predictions and targets of each class."""

    def __init__(self, average: str = "macro", max_classes: int = 1024) -> None:
        if average not in _AVERAGES:
            message = f"average is {average[:80]!r}; known: {', '.join(_AVERAGES)}"
            raise InvalidArgument("BAD_VALUE", message, field="average")
        if max_classes < 2:
            message = f"max_classes is {max_classes}; it must be at least 2"
            raise InvalidArgument("BAD_VALUE", message, field="max_classes")
        self._average = average
        self._max_classes = max_classes
        self.num_sums = 3 * max_classes

    @abstractmethod
    def figure(self, hits: float, predicted: float, expected: float) -> float:
        """Returns the figure of one class, given its true positives, predictions and targets; 0 for 0 / 0."""

    def sums(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Returns the true positives, the predictions and the targets of each class, int64 [3 * max_classes].

        Args:
            outputs: Logits, float [..., C]; or the logits of the class 1 of two classes, [...] or [..., 1].
            target: Class indices, [...]; targets of -1 are ignored.
        """
        predicted, target = predictions(outputs, target, f"the metric {self.name}")
        valid = target != IGNORED
        predicted, target = predicted[valid], target[valid]
        num_classes = 1 + max((int(one.max()) for one in (predicted, target) if one.numel()), default=0)
        if num_classes > self._max_classes:
            message = f"the metric {self.name} counts {self._max_classes} classes; set max_classes to {num_classes}"
            raise InvalidArgument("BAD_VALUE", message, field="max_classes")
        hits = target[predicted == target]
        counted = (hits, predicted, target)
        return torch.cat([torch.bincount(classes, minlength=self._max_classes) for classes in counted])

    def result(self, sums: Sequence[float]) -> float:
        """Returns the averaged figure, or NaN if there were no targets. Classes that never occurred do not count."""
        size = self._max_classes
        classes = [
            (hits, predicted, expected)
            for hits, predicted, expected in zip(sums[:size], sums[size : 2 * size], sums[2 * size :], strict=True)
            if predicted or expected
        ]
        if not classes:
            return math.nan
        if self._average == "micro":
            return self.figure(*(sum(counts) for counts in zip(*classes, strict=True)))
        weights = [expected if self._average == "weighted" else 1.0 for _, _, expected in classes]
        figures = [weight * self.figure(*counts) for weight, counts in zip(weights, classes, strict=True)]
        return math.fsum(figures) / math.fsum(weights)


class Precision(_ClassCounts):
    """Precision: the share of a class's predictions that are right, averaged over the classes.

    Targets of -1 are ignored. Classes that occur neither as target nor as prediction do not count; a class that is
    never predicted has a precision of 0.

    Args:
        average: `macro` for the mean over the classes, `weighted` for the mean weighted by the number of targets, or
            `micro` for all classes together.
        max_classes: Maximum number of classes.
    """

    name = "precision"

    def figure(self, hits: float, predicted: float, expected: float) -> float:
        return hits / predicted if predicted else 0.0


class Recall(_ClassCounts):
    """Recall: the share of a class's targets that are found, averaged over the classes.

    Targets of -1 are ignored. Classes that occur neither as target nor as prediction do not count; a class without
    targets that is predicted has a recall of 0.

    Args:
        average: `macro` for the mean over the classes, `weighted` for the mean weighted by the number of targets, or
            `micro` for all classes together.
        max_classes: Maximum number of classes.
    """

    name = "recall"

    def figure(self, hits: float, predicted: float, expected: float) -> float:
        return hits / expected if expected else 0.0


class F1(_ClassCounts):
    """F1 score: the harmonic mean of precision and recall (van Rijsbergen 1979), averaged over the classes.

    Targets of -1 are ignored. Classes that occur neither as target nor as prediction do not count.

    Args:
        average: `macro` for the mean over the classes, `weighted` for the mean weighted by the number of targets, or
            `micro` for all classes together.
        max_classes: Maximum number of classes.
    """

    name = "f1"

    def figure(self, hits: float, predicted: float, expected: float) -> float:
        return 2 * hits / (predicted + expected)


class TopKAccuracy(Metric):
    """Share of targets that are among the k classes with the highest logits; targets of -1 are ignored.

    Of classes with equal logits, the first ones count as higher.

    Args:
        k: Number of classes; at least 1.
    """

    name = "top_k_accuracy"

    def __init__(self, k: int = 5) -> None:
        if k < 1:
            raise InvalidArgument("BAD_VALUE", f"k is {k}; it must be at least 1", field="k")
        self._k = k

    def sums(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Returns the number of targets among the k best classes and the number of all targets, without ignored ones.

        Args:
            outputs: Logits, float [..., C].
            target: Class indices, int64 [...].
        """
        check_one_tensor(outputs, "the metric top_k_accuracy")
        if outputs.shape[:-1] != target.shape:
            shapes = f"{list(outputs.shape)} and {list(target.shape)}"
            message = f"top_k_accuracy needs outputs of shape [..., C] and targets of shape [...], not {shapes}"
            raise InvalidArgument("WRONG_SHAPE", message)
        valid = target != IGNORED
        logits, target = outputs[valid], target[valid].unsqueeze(-1)
        own = logits.gather(-1, target)
        before = torch.arange(logits.shape[-1], device=logits.device) < target
        rank = ((logits > own) | ((logits == own) & before)).sum(-1)
        # A logit that is not a number is above nothing and would otherwise count as the best.
        found = (rank < self._k) & own.squeeze(-1).isfinite()
        return torch.stack([found.sum(), valid.sum()])


class Auc(Metric):
    """Area under the ROC curve, for two classes or as the mean over one-versus-rest curves; targets of -1 are ignored.

    This is the probability that a random sample of a class has a higher score for the class than a random sample of the
    other classes, where ties count half (Hanley & McNeil 1982). The score of a class is its log-odds. The scores are
    counted in bins, which makes the figure independent of batches and ranks. Scores in the same bin count as ties, so
    the error is at most half the share of pairs of a positive and a negative sample that share a bin. A bin is
    (1 + |score|)^2 / 4096 wide by default. For 2,000 samples with normally distributed scores, the error is below 1e-4.

    Args:
        num_classes: Number of classes. For more than two, the figure is the mean over the classes that have both
            positive and negative samples, each with the same weight.
        num_bins: Number of bins per class; at least 2.
    """

    name = "auc"

    def __init__(self, num_classes: int = 2, num_bins: int = 8192) -> None:
        for name, value in {"num_classes": num_classes, "num_bins": num_bins}.items():
            if value < 2:
                raise InvalidArgument("BAD_VALUE", f"{name} is {value}; it must be at least 2", field=name)
        self._num_classes = num_classes
        self._num_bins = num_bins
        self._num_curves = 1 if num_classes == 2 else num_classes
        self.num_sums = 2 * num_bins * self._num_curves

    def sums(self, outputs: Tensor, target: Tensor) -> Tensor:
        """Returns the histograms of the scores of negative and positive samples, int64 [num_curves * 2 * num_bins].

        Args:
            outputs: Logits, float [..., C]; or the logits of the class 1 of two classes, [...] or [..., 1].
            target: Class indices, [...].

        Raises:
            InvalidArgument: WRONG_SHAPE if the outputs do not fit the target or the number of classes.
        """
        _, classes = predictions(outputs, target, "the metric auc")
        valid = classes != IGNORED
        classes = classes[valid]
        if outputs.shape == target.shape or outputs.shape[-1] == 1:
            num_classes, scores = 2, outputs.reshape(target.shape)[valid].double().unsqueeze(-1)
        else:
            num_classes, scores = outputs.shape[-1], _log_odds(outputs[valid].double())
        if num_classes != self._num_classes:
            message = f"the metric auc is for {self._num_classes} classes; set num_classes to {num_classes}"
            raise InvalidArgument("WRONG_SHAPE", message, field="num_classes")
        curves = torch.arange(self._num_curves, device=scores.device)
        positive = classes.unsqueeze(-1) == (curves + 1 if num_classes == 2 else curves)
        share = torch.where(scores.isinf(), scores.sign(), scores / (1 + scores.abs()))
        # A score that is not a number counts as the lowest one.
        bins = ((share.nan_to_num(-1.0) + 1) / 2 * self._num_bins).long().clamp(max=self._num_bins - 1)
        cells = (2 * curves + positive) * self._num_bins + bins
        return torch.bincount(cells.flatten(), minlength=self.num_sums)

    def result(self, sums: Sequence[float]) -> float:
        """Returns the mean area under the curves, or NaN if no class has both positive and negative samples."""
        histograms = torch.tensor(sums, dtype=torch.float64).view(self._num_curves, 2, self._num_bins)
        negative, positive = histograms.unbind(1)
        below = negative.cumsum(-1) - negative / 2
        pairs = negative.sum(-1) * positive.sum(-1)
        areas = (positive * below).sum(-1) / pairs
        return float(areas[pairs > 0].mean()) if (pairs > 0).any() else math.nan


def _log_odds(logits: Tensor) -> Tensor:
    """Returns the logarithm of p / (1 - p) for each class, float64 [B, C]; for two classes, of the class 1 only."""
    if logits.shape[-1] == 2:
        return (logits[:, 1] - logits[:, 0]).unsqueeze(-1)
    log_p = F.log_softmax(logits, -1)
    return log_p - torch.log(-torch.expm1(log_p))
