"""Scorers: each compares the predictions for one kind of target, row by row, and collects the data for the figures."""

import heapq
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from common.errors import FailedPrecondition
from deepseek.data.encoders import PAD
from deepseek.evaluation import figures
from deepseek.evaluation.figures import Array, ClassFigures
from deepseek.evaluation.results import Judged, Outcomes, Task


@dataclass(frozen=True)
class Row:
    """One thing to predict.

    Attributes:
        key: Key of the sample, with the index of the target if the sample has several.
        values: Value of each field.
        target: The expected value.
    """

    key: str
    values: Mapping[str, Any]
    target: Any


class Worst:
    """Keeps the rows with the highest losses.

    Args:
        size: Number of rows to keep.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._heap: list[tuple[float, int, Any]] = []
        self._count = 0

    def add(self, loss: float, item: Any) -> None:
        """Adds a row if its loss is among the highest. If losses are equal, the earlier row is kept."""
        self._count += 1
        heapq.heappush(self._heap, (loss, -self._count, item))
        if len(self._heap) > self._size:
            heapq.heappop(self._heap)

    def items(self) -> list[Any]:
        """Returns the rows, the one with the highest loss first."""
        return [item for _, _, item in sorted(self._heap, key=lambda one: one[:2], reverse=True)]


class Scorer(ABC):
    """Base class of scorers.

    Args:
        output: Name of the model's output that is judged.
    """

    task: ClassVar[Task]

    def __init__(self, output: str) -> None:
        self._output = output
        self._columns: list[tuple[str, str | float, str | float, float, float, tuple[float, ...]]] = []

    def add(self, row: Row, outputs: Mapping[str, Array], inputs: Mapping[str, Array]) -> Judged:
        """Judges the outputs of a model for a row.

        Args:
            row: The row.
            outputs: Outputs of the model, by name.
            inputs: Encoded inputs, by name; only language models need them.

        Raises:
            FailedPrecondition: UNSUITABLE_DATA if the output does not fit the target.
        """
        judged, parts = self._judge(row, outputs[self._output], inputs)
        self._columns.append(
            (judged.key, judged.target, judged.predicted, judged.probability, judged.loss, parts),
        )
        return judged

    @property
    def num_rows(self) -> int:
        """Number of rows so far."""
        return len(self._columns)

    def outcomes(self) -> Outcomes:
        """Returns the outcomes of all rows."""
        keys, targets, predicted, probabilities, losses, parts = zip(*self._columns, strict=True)
        return Outcomes(keys, targets, predicted, probabilities, np.array(losses), np.array(parts, np.float64))

    @property
    def labels(self) -> Sequence[str]:
        """The labels, in the order of the confusion matrix; empty if the target has none."""
        return ()

    def confusion(self) -> Array | None:
        """Returns the confusion matrix; None without labels."""
        return None

    def classes(self) -> tuple[ClassFigures, ...]:
        """Returns the figures of each label."""
        return ()

    @abstractmethod
    def _judge(self, row: Row, output: Array, inputs: Mapping[str, Array]) -> tuple[Judged, tuple[float, ...]]:
        """Returns the judged row, and the addends of the main metric."""

    @abstractmethod
    def metrics(self) -> dict[str, float]:
        """Returns the figures of all rows."""

    @staticmethod
    @abstractmethod
    def main(sums: Array) -> Array:
        """Returns the main metric, given the sums of its addends, float [..., parts]."""


class ClassScorer(Scorer):
    """Judges predicted labels.

    Args:
        output: Name of the output with a score for each label.
        labels: The labels, in the order of the output's last axis.
        probabilities: Function that returns the probabilities of the labels, given an output.
    """

    task = "classification"

    def __init__(self, output: str, labels: Sequence[str], probabilities: Callable[[Array], Array]) -> None:
        super().__init__(output)
        self._labels = list(labels)
        self._known = len(labels)
        self._numbers = {label: number for number, label in enumerate(labels)}
        self._probabilities = probabilities
        self._targets: list[int] = []
        self._scores: list[Array] = []

    def _judge(self, row: Row, output: Array, inputs: Mapping[str, Array]) -> tuple[Judged, tuple[float, ...]]:
        found = self._probabilities(output)
        label = str(row.target)
        target = self._numbers.setdefault(label, len(self._labels))
        if target == len(self._labels):
            self._labels.append(label)  # the model does not know this label, so it is always wrong
        predicted = int(found.argmax())
        own = float(found[target]) if target < self._known else 0.0
        self._targets.append(target)
        self._scores.append(found.astype(np.float32))
        is_right = predicted == target
        loss = -math.log(max(own, figures.LEAST_PROBABILITY))
        judged = Judged(
            row.key, label, self._labels[predicted], loss, float(found[predicted]), own, is_right, row.values
        )
        return judged, (float(is_right), 1.0)

    @property
    def labels(self) -> Sequence[str]:
        return self._labels

    def confusion(self) -> Array:
        predicted = np.array([scores.argmax() for scores in self._scores])
        return figures.confusion_matrix(np.array(self._targets), predicted, len(self._labels))

    def classes(self) -> tuple[ClassFigures, ...]:
        return figures.class_figures(self.confusion(), self._labels)

    def metrics(self) -> dict[str, float]:
        unknown = ((0, 0), (0, len(self._labels) - self._known))
        return figures.classification(
            self.confusion(), np.array(self._targets), np.pad(np.stack(self._scores), unknown)
        )

    @staticmethod
    def main(sums: Array) -> Array:
        return np.asarray(sums[..., 0] / sums[..., 1])


class NumberScorer(Scorer):
    """Judges predicted numbers."""

    task = "regression"

    def _judge(self, row: Row, output: Array, inputs: Mapping[str, Array]) -> tuple[Judged, tuple[float, ...]]:
        if output.size != 1 or output.dtype.kind not in "biuf":
            message = f"the output {self._output!r} has the shape {list(output.shape)}; evaluation needs one number"
            raise FailedPrecondition("UNSUITABLE_DATA", f"{message} per sample", field="MODEL")
        predicted, target = float(output.reshape(())), float(row.target)
        if not math.isfinite(predicted):
            raise FailedPrecondition("NOT_FINITE", f"the prediction for {row.key} is {predicted}")
        error = abs(predicted - target)
        return Judged(row.key, target, predicted, error, values=row.values), (error * error, 1.0)

    def metrics(self) -> dict[str, float]:
        outcomes = self.outcomes()
        return figures.regression(np.array(outcomes.targets), np.array(outcomes.predicted))

    @staticmethod
    def main(sums: Array) -> Array:
        return np.sqrt(sums[..., 0] / sums[..., 1])


class TokenScorer(Scorer):
    """Judges a language model, which predicts each token of a text from the tokens before it.

    Args:
        output: Name of the output with the logits of the next token at each position.
        tokens: Name of the input with the token ids.
    """

    task = "language-model"

    def __init__(self, output: str, tokens: str) -> None:
        super().__init__(output)
        self._tokens = tokens
        self._hits = 0

    def _judge(self, row: Row, output: Array, inputs: Mapping[str, Array]) -> tuple[Judged, tuple[float, ...]]:
        tokens = inputs[self._tokens].reshape(-1).astype(np.int64)
        logits = output.reshape(len(tokens), -1)[:-1].astype(np.float64)
        following = tokens[1:]
        counted = following != PAD
        if not counted.any():
            raise FailedPrecondition("UNSUITABLE_DATA", f"{row.key} has fewer than two tokens; nothing is predicted")
        logits, following = logits[counted], following[counted]
        shifted = logits - logits.max(1, keepdims=True)
        losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(following)), following]
        self._hits += int((logits.argmax(1) == following).sum())
        total = float(losses.sum())
        judged = Judged(row.key, "", "", total / len(following), values=row.values)
        return judged, (total, float(len(following)))

    def metrics(self) -> dict[str, float]:
        total, num_tokens = self.outcomes().parts.sum(0).tolist()
        return {
            "perplexity": figures.perplexity(total / num_tokens),
            "next_token_accuracy": self._hits / num_tokens,
            "loss": total / num_tokens,
            "num_tokens": num_tokens,
        }

    @staticmethod
    def main(sums: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(sums[..., 0] / sums[..., 1]))
