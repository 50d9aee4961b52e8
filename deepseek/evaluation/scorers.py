"""Scorers: each compares the predictions for one kind of target, row by row, and collects the data for the figures."""

import heapq
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.data.encoders import PAD
from deepseek.evaluation import figures
from deepseek.evaluation.figures import Array, ClassFigures
from deepseek.evaluation.results import Judged, Outcomes, Task

MAX_UNKNOWN_LABELS = 1000
"""Maximum number of labels in the targets that the model does not know. The confusion matrix grows with its square."""


@dataclass(frozen=True)
class Row:
    """One thing to predict.

    Attributes:
        key: Key of the sample, with the index of the target if the sample has several.
        values: Value of each field.
        target: The expected value.
        sample: Key of the sample; empty if it is `key`.
    """

    key: str
    values: Mapping[str, Any]
    target: Any
    sample: str = ""


@dataclass(frozen=True)
class Score:
    """A prediction that was compared with its target, but is not part of the figures yet.

    Attributes:
        judged: The comparison.
        sample: Key of the sample.
        parts: Addends of the main metric, and of others if the task needs them.
        probabilities: Probability of each label that the model knows, float32 [labels]; None without labels.
    """

    judged: Judged
    sample: str
    parts: tuple[float, ...]
    probabilities: Array | None = None


_Found = tuple[Judged, tuple[float, ...], Array | None]
_DAMAGED = "are not finite; the row, or the model itself, is damaged"


class Worst:
    """Keeps the rows with the highest severity.

    Args:
        size: Number of rows to keep.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._heap: list[tuple[float, int, Any]] = []
        self._count = 0

    def add(self, severity: float | None, item: Any) -> None:
        """Adds a row if its severity is among the highest. If severities are equal, the earlier row is kept.

        Args:
            severity: How bad the row is; None leaves the row out.
            item: The row.
        """
        if severity is None:
            return
        self._count += 1
        heapq.heappush(self._heap, (severity, -self._count, item))
        if len(self._heap) > self._size:
            heapq.heappop(self._heap)

    def items(self) -> list[Any]:
        """Returns the rows, the one with the highest severity first."""
        return [item for _, _, item in sorted(self._heap, key=lambda one: one[:2], reverse=True)]


class Scorer(ABC):
    """Base class of scorers.

    Args:
        output: Name of the model's output that is judged.
    """

    task: ClassVar[Task]

    def __init__(self, output: str) -> None:
        self._output = output
        self._columns: list[tuple[str, str, str | float, str | float, float, float, tuple[float, ...]]] = []

    def judge(self, row: Row, outputs: Mapping[str, Array], inputs: Mapping[str, Array]) -> Score:
        """Judges the outputs of a model for a row. The figures do not include the row before it is added.

        Args:
            row: The row.
            outputs: Outputs of the model, by name.
            inputs: Encoded inputs, by name; only language models need them.

        Raises:
            InvalidArgument: NOT_FINITE or TOO_SHORT if this row cannot be judged.
            FailedPrecondition: UNSUITABLE_DATA if no output of the model fits the target.
        """
        judged, parts, probabilities = self._judge(row, outputs[self._output], inputs)
        return Score(judged, row.sample or row.key, parts, probabilities)

    def add(self, score: Score) -> None:
        """Adds a judged row to the figures.

        Raises:
            FailedPrecondition: UNSUITABLE_DATA if the rows have too many labels that the model does not know.
        """
        one = score.judged
        self._columns.append(
            (one.key, score.sample, one.target, one.predicted, one.probability, one.loss, score.parts),
        )

    @property
    def num_rows(self) -> int:
        """Number of rows so far."""
        return len(self._columns)

    def outcomes(self) -> Outcomes:
        """Returns the outcomes of all rows."""
        keys, samples, targets, predicted, probabilities, losses, parts = zip(*self._columns, strict=True)
        return Outcomes(keys, samples, targets, predicted, probabilities, np.array(losses), np.array(parts, np.float64))

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
    def _judge(self, row: Row, output: Array, inputs: Mapping[str, Array]) -> _Found:
        """Returns the judged row, the parts of its score, and the probabilities of the labels."""

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
        field: Field of the targets, for messages.
    """

    task = "classification"

    def __init__(
        self, output: str, labels: Sequence[str], probabilities: Callable[[Array], Array], *, field: str
    ) -> None:
        super().__init__(output)
        self._field = field
        self._labels = list(labels)
        self._known = len(labels)
        self._numbers = {label: number for number, label in enumerate(labels)}
        self._probabilities = probabilities
        self._targets: list[int] = []
        self._scores: list[Array] = []

    def _judge(self, row: Row, output: Array, inputs: Mapping[str, Array]) -> _Found:
        _check_finite(output, f"the scores in {self._output!r}")
        found = self._probabilities(output)
        label = str(row.target)
        target = self._numbers.get(label, self._known)
        predicted = int(found.argmax())
        own = float(found[target]) if target < self._known else 0.0
        is_right = predicted == target
        loss = -math.log(max(own, figures.LEAST_PROBABILITY))
        judged = Judged(
            row.key, label, self._labels[predicted], loss, float(found[predicted]), own, is_right, row.values
        )
        return judged, (float(is_right), 1.0), found.astype(np.float32)

    def add(self, score: Score) -> None:
        label = str(score.judged.target)
        if label not in self._numbers:  # the model does not know this label, so it is always wrong
            if len(self._labels) - self._known == MAX_UNKNOWN_LABELS:
                message = f"the field {self._field!r} has over {MAX_UNKNOWN_LABELS:,} labels that the model does not"
                message += f" know, e.g. {label[:80]!r}; choose the field that the model predicts with --target"
                raise FailedPrecondition("UNSUITABLE_DATA", message, field="--target")
            self._numbers[label] = len(self._labels)
            self._labels.append(label)
        super().add(score)
        assert score.probabilities is not None
        self._targets.append(self._numbers[label])
        self._scores.append(score.probabilities)

    @property
    def labels(self) -> Sequence[str]:
        return self._labels

    def confusion(self) -> Array:
        predicted = np.array([scores.argmax() for scores in self._scores])
        return figures.confusion_matrix(np.array(self._targets), predicted, len(self._labels))

    def classes(self) -> tuple[ClassFigures, ...]:
        return figures.class_figures(self.confusion(), self._labels)

    def metrics(self) -> dict[str, float]:
        return figures.classification(self.confusion(), np.array(self._targets), np.stack(self._scores))

    @staticmethod
    def main(sums: Array) -> Array:
        return np.asarray(sums[..., 0] / sums[..., 1])


class NumberScorer(Scorer):
    """Judges predicted numbers."""

    task = "regression"

    def _judge(self, row: Row, output: Array, inputs: Mapping[str, Array]) -> _Found:
        if output.size != 1 or output.dtype.kind not in "biuf":
            message = f"the output {self._output!r} has the shape {list(output.shape)}; evaluation needs one number"
            raise FailedPrecondition("UNSUITABLE_DATA", f"{message} per sample", field="MODEL")
        _check_finite(output, f"the numbers in {self._output!r}")
        predicted, target = float(output.reshape(())), float(row.target)
        error = abs(predicted - target)
        return Judged(row.key, target, predicted, error, values=row.values), (error * error, 1.0), None

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

    def _judge(self, row: Row, output: Array, inputs: Mapping[str, Array]) -> _Found:
        tokens = inputs[self._tokens].reshape(-1).astype(np.int64)
        logits = output.reshape(len(tokens), -1)[:-1].astype(np.float64)
        following = tokens[1:]
        counted = following != PAD
        if not counted.any():
            message = "the text has fewer than two tokens, so there is no token to predict"
            raise InvalidArgument("TOO_SHORT", message)
        logits, following = logits[counted], following[counted]
        shifted = logits - logits.max(1, keepdims=True)
        losses = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(len(following)), following]
        if np.isnan(losses).any():
            raise InvalidArgument("NOT_FINITE", f"the logits in {self._output!r} {_DAMAGED}")
        num_hits = float((logits.argmax(1) == following).sum())
        total = float(losses.sum())
        judged = Judged(row.key, "", "", total / len(following), values=row.values)
        return judged, (total, float(len(following)), num_hits), None

    def metrics(self) -> dict[str, float]:
        total, num_tokens, num_hits = self.outcomes().parts.sum(0).tolist()
        return {
            "perplexity": figures.perplexity(total / num_tokens),
            "next_token_accuracy": num_hits / num_tokens,
            "loss": total / num_tokens,
            "num_tokens": num_tokens,
        }

    @staticmethod
    def main(sums: Array) -> Array:
        with np.errstate(over="ignore"):
            return np.asarray(np.exp(sums[..., 0] / sums[..., 1]))


def _check_finite(output: Array, what: str) -> None:
    if not np.isfinite(np.asarray(output, np.float64)).all():
        raise InvalidArgument("NOT_FINITE", f"{what} {_DAMAGED}")
