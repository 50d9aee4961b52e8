"""Figures of predictions that fit into memory, computed with NumPy.

They have the same definitions as the metrics of `deepseek.training`, which add up sums over batches and ranks with
torch. Here, the AUC is exact instead of binned.

In shapes, N stands for samples and C for classes.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

LEAST_PROBABILITY = float(np.finfo(np.float64).eps)
"""Lower bound of a probability in a logarithm, so that a single certain mistake does not make a mean infinite."""


@dataclass(frozen=True)
class ClassFigures:
    """Figures of one class, from 0 to 1; 0 where the denominator is 0.

    Attributes:
        label: The class.
        precision: Share of the predictions of the class that are right.
        recall: Share of the targets of the class that are found.
        f1: Harmonic mean of both.
        support: Number of targets of the class.
    """

    label: str
    precision: float
    recall: float
    f1: float
    support: int


def confusion_matrix(target: Array, predicted: Array, num_classes: int) -> Array:
    """Counts the pairs of target and predicted class, int64 [C, C]; a row is a target.

    >>> confusion_matrix(np.array([0, 0, 1]), np.array([0, 1, 1]), 2).tolist()
    [[1, 1], [0, 1]]
    """
    return np.bincount(target * num_classes + predicted, minlength=num_classes**2).reshape(num_classes, num_classes)


def class_figures(confusion: Array, labels: Sequence[str]) -> tuple[ClassFigures, ...]:
    """Returns the figures of each class, given a confusion matrix."""
    hits, targets, predictions = confusion.diagonal(), confusion.sum(1), confusion.sum(0)
    return tuple(
        ClassFigures(
            label,
            float(hit / max(1, predicted)),
            float(hit / max(1, support)),
            float(2 * hit / max(1, predicted + support)),
            int(support),
        )
        for label, hit, support, predicted in zip(labels, hits, targets, predictions, strict=True)
    )


def classification(confusion: Array, target: Array, probabilities: Array) -> dict[str, float]:
    """Returns the accuracy, macro F1, log loss and AUC of a classifier.

    Classes that occur neither as target nor as prediction do not count in the macro F1. For more than two classes, the
    AUC is the mean over the one-versus-rest curves of the classes that have both positive and negative samples.

    Args:
        confusion: Confusion matrix, int64 [C, C].
        target: Class of each sample, int64 [N].
        probabilities: Probability of each class that the classifier knows, float [N, K]. These are the first K of the C
            classes; the probability of the others is 0.
    """
    occurring = (confusion.sum(0) + confusion.sum(1)) > 0
    f1 = np.array([one.f1 for one in class_figures(confusion, [""] * len(confusion))])
    num_known = probabilities.shape[1]
    known = target < num_known
    own = np.zeros(len(target))
    own[known] = probabilities[known, target[known]]
    classes = range(1, 2) if len(confusion) == 2 else range(len(confusion))
    nothing = np.zeros(len(target))
    scores = (probabilities[:, index] if index < num_known else nothing for index in classes)
    curves = [
        one for index, score in zip(classes, scores, strict=True) if not math.isnan(one := auc(score, target == index))
    ]
    return {
        "accuracy": float(confusion.trace() / confusion.sum()),
        "macro_f1": float(f1[occurring].mean()),
        "log_loss": float(-np.log(np.maximum(own, LEAST_PROBABILITY)).mean()),
        "auc": float(np.mean(curves)) if curves else math.nan,
    }


def auc(scores: Array, positive: Array) -> float:
    """Returns the area under the ROC curve: the probability that a positive sample scores higher than a negative one.

    Ties count half (Hanley & McNeil 1982, doi:10.1148/radiology.143.1.7063747). The area follows from the ranks of the
    scores. It is NaN unless there are samples of both kinds.

    >>> auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([False, False, True, True]))
    0.75
    """
    num_positive = int(positive.sum())
    num_negative = len(positive) - num_positive
    if not num_positive or not num_negative:
        return math.nan
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    above = ranks[positive].sum() - num_positive * (num_positive + 1) / 2
    return float(above / (num_positive * num_negative))


def regression(target: Array, predicted: Array) -> dict[str, float]:
    """Returns the RMSE, mean absolute error and R² of predicted numbers. R² is NaN if all targets are equal.

    Args:
        target: Expected values, float [N].
        predicted: Predicted values, float [N].
    """
    errors = predicted.astype(np.float64) - target.astype(np.float64)
    spread = float(np.square(target - target.mean()).sum())
    return {
        "rmse": float(np.sqrt(np.square(errors).mean())),
        "mae": float(np.abs(errors).mean()),
        "r2": 1 - float(np.square(errors).sum()) / spread if spread > 0 else math.nan,
    }


def perplexity(mean_loss: float) -> float:
    """Returns the exponential of a mean loss in nats per token; infinity if it is too large for a float."""
    return math.exp(mean_loss) if mean_loss < 700 else math.inf
