"""The results of evaluations and comparisons. `deepseek.evaluation.files` writes them with their pictures."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from deepseek.evaluation.figures import Array, ClassFigures

Task = Literal["classification", "regression", "language-model"]

MAIN_METRICS: Mapping[Task, str] = {
    "classification": "accuracy",
    "regression": "rmse",
    "language-model": "perplexity",
}
"""The figure by which two versions are compared."""

_MAX_TEXT = 500


@dataclass(frozen=True)
class Judged:
    """The prediction for one row, compared with its target.

    Attributes:
        key: Key of the sample; if the sample has a list of targets, followed by `[i]`.
        target: The expected label or number; empty for a language model.
        predicted: The predicted label or number; empty for a language model.
        loss: Negative log-likelihood of the target in nats, per token for a language model; for a number, the absolute
            error.
        probability: Probability of the predicted label; NaN for a number and a language model.
        target_probability: Probability of the target; NaN in the same cases.
        right: Whether the predicted label is the target; None where there are no labels.
        values: Values of the sample's fields.
    """

    key: str
    target: str | float
    predicted: str | float
    loss: float
    probability: float = math.nan
    target_probability: float = math.nan
    right: bool | None = None
    values: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def severity(self) -> float | None:
        """How bad the prediction is: the probability of a wrong label; without labels, the loss. None if right."""
        return self.loss if self.right is None else None if self.right else self.probability

    def to_json(self) -> dict[str, Any]:
        """Returns the row as a JSON object, without media."""
        shown = {name: value for name, value in vars(self).items() if name != "values"}
        texts = {name: value for name, value in self.values.items() if not _is_media(value)}
        return _finite({**shown, "values": {name: _short(value) for name, value in texts.items()}})


@dataclass(frozen=True)
class Skipped:
    """A row without a prediction, or whose prediction cannot be judged.

    Attributes:
        key: Key of the row, as in `Judged`.
        reason: Reason code of the error, e.g. `NOT_FINITE`.
        message: Message of the error.
    """

    key: str
    reason: str
    message: str


@dataclass(frozen=True)
class Outcomes:
    """The outcome of every row, as columns of equal length.

    Attributes:
        keys: Key of the row, as in `Judged`.
        samples: Key of the sample to which the row belongs.
        targets: As in `Judged`.
        predicted: As in `Judged`.
        probabilities: Probability of the predicted label, as in `Judged`.
        losses: As in `Judged`, float64 [N].
        parts: Addends of the main metric, float64 [N, parts].
    """

    keys: Sequence[str]
    samples: Sequence[str]
    targets: Sequence[str | float]
    predicted: Sequence[str | float]
    probabilities: Sequence[float]
    losses: Array
    parts: Array

    @property
    def right(self) -> Sequence[bool]:
        """Whether each predicted label is the target."""
        return [one == other for one, other in zip(self.targets, self.predicted, strict=True)]

    def parts_of_samples(self) -> Array:
        """Returns the sum of `parts` over the rows of each sample, float64 [samples, parts]."""
        numbers: dict[str, int] = {}
        places = [numbers.setdefault(sample, len(numbers)) for sample in self.samples]
        sums = np.zeros((len(numbers), self.parts.shape[1]))
        np.add.at(sums, places, self.parts)
        return sums


@dataclass(frozen=True)
class Evaluation:
    """How good a model version is on a split of a data set.

    Attributes:
        version: Name of the model version.
        dataset_version: Name of the data set version.
        split: Split of the data set.
        target: Name of the field that is predicted.
        task: Kind of the target.
        runner: `inference` if the mesh serves the version, `local` if this process ran it.
        file: File of the version that was run.
        num_samples: Number of samples that were read.
        num_rows: Number of predictions; more than `num_samples` if a sample has a list of targets.
        num_skipped: Number of rows that could not be predicted or judged. No figure includes them.
        skipped: The first 1,000 of these rows.
        metrics: Figures by name.
        labels: Labels, in the order of `confusion`; empty unless the task is `classification`.
        confusion: Number of rows for each target (first axis) and prediction (second axis); None without labels.
        classes: Figures of each label.
        worst: Rows with the highest severity, the highest first; with labels, only mistakes.
        outcomes: Outcome of every row.
    """

    version: str
    dataset_version: str
    split: str
    target: str
    task: Task
    runner: str
    file: str
    num_samples: int
    num_rows: int
    num_skipped: int
    skipped: Sequence[Skipped]
    metrics: Mapping[str, float]
    labels: Sequence[str]
    confusion: Array | None
    classes: Sequence[ClassFigures]
    worst: Sequence[Judged]
    outcomes: Outcomes = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """Returns everything except the outcomes as a JSON object. Figures that are not finite become None."""
        names = ("version", "dataset_version", "split", "target", "task", "runner", "file")
        counts = ("num_samples", "num_rows", "num_skipped")
        return {
            **{name: getattr(self, name) for name in (*names, *counts)},
            "skipped": [vars(one) for one in self.skipped],
            "metrics": _finite(self.metrics),
            "classes": [vars(one) for one in self.classes],
            "confusion": None if self.confusion is None else self.confusion.tolist(),
            "worst": [one.to_json() for one in self.worst],
        }


@dataclass(frozen=True)
class Disagreement:
    """A row on which the predictions of two versions differ; for language models, the losses."""

    first: Judged
    second: Judged


@dataclass(frozen=True)
class Comparison:
    """Two model versions on the same rows. Rows that one of them could not predict are skipped for both.

    Attributes:
        first: Evaluation of the first version.
        second: Evaluation of the second version.
        metric: Name of the figure that is tested.
        difference: This figure of the second version minus that of the first.
        interval: 95 % bootstrap interval of the difference. It draws samples, each with all its rows.
        counts: Number of rows that both, only the first, only the second, or neither version gets right; empty without
            labels.
        p_value: p-value of McNemar's exact test; None without labels, or if a sample has several rows: the test
            requires independent rows.
        num_disagreements: Number of rows with different predictions; 0 for a language model.
        disagreements: Rows on which the versions differ most, in descending order of the difference.
    """

    first: Evaluation
    second: Evaluation
    metric: str
    difference: float
    interval: tuple[float, float]
    counts: Mapping[str, int]
    p_value: float | None
    num_disagreements: int
    disagreements: Sequence[Disagreement]

    @property
    def better(self) -> Evaluation | None:
        """The version that is better at the 5 % significance level; None if the difference may be due to chance."""
        low, high = self.interval
        is_clear = self.p_value < 0.05 if self.p_value is not None else low > 0 or high < 0
        is_second = self.difference > 0 if self.metric == "accuracy" else self.difference < 0
        return (self.second if is_second else self.first) if is_clear else None

    def to_json(self) -> dict[str, Any]:
        """Returns everything except the outcomes as a JSON object."""
        names = ("metric", "difference", "p_value", "num_disagreements")
        return {
            "first": self.first.to_json(),
            "second": self.second.to_json(),
            **_finite({name: getattr(self, name) for name in names}),
            "interval": list(_finite(dict(enumerate(self.interval))).values()),
            "counts": dict(self.counts),
            "better": self.better.version if self.better else None,
            "disagreements": [
                {"first": one.first.to_json(), "second": one.second.to_json()} for one in self.disagreements
            ],
        }


def _finite(values: Mapping[Any, Any]) -> dict[Any, Any]:
    """Replaces numbers that JSON cannot express by None."""
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }


def _is_media(value: Any) -> bool:
    return isinstance(value, bytes) or (isinstance(value, list) and any(map(_is_media, value)))


def _short(value: Any) -> Any:
    if isinstance(value, list):
        return [_short(one) for one in value[:_MAX_TEXT]]
    return value[:_MAX_TEXT] if isinstance(value, str) else value
