"""The rows on which model versions are evaluated: which data set, split and target, and how the target is scored."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import FailedPrecondition, InvalidArgument, NotFound
from deepseek.client import names
from deepseek.client.predictor import BATCH_SIZE, Predictor, label_probabilities
from deepseek.client.samples import from_proto
from deepseek.evaluation.scorers import ClassScorer, NumberScorer, Row, Scorer, TokenScorer
from deepseek.tasks import EVALUATION_SPLITS

if TYPE_CHECKING:
    from deepseek.client.mesh import Mesh
    from deepseek.data.manifest import DatasetManifest, Field
    from deepseek.data.sample import Sample
    from deepseek.evaluation.figures import Array
    from protos.trainer.v1 import trainer_pb2

_NUMERIC = ("number", "integer")
_LABELS = ("label", "text", "integer")
_LANGUAGE_MODEL_LOSS = "next_token_cross_entropy"


@dataclass(frozen=True)
class Source:
    """Where the rows come from.

    Attributes:
        version: Name of the data set version.
        fields: Schema.
        split: Split of the version.
        num_samples: Number of samples in the split.
        target: Field that is predicted.
    """

    version: str
    fields: Sequence[Field]
    split: str
    num_samples: int
    target: Field

    def check(self, predictor: Predictor) -> None:
        """Checks that the data set has the fields that a model needs.

        Raises:
            FailedPrecondition: UNSUITABLE_DATA.
            InvalidArgument: MISSING_FIELD or UNKNOWN_FIELD if the model takes more or fewer columns.
        """
        known = {field.name for field in self.fields}
        missing = [field for field in predictor.inputs.fields if field not in known]
        if missing and predictor.inputs.joins_columns:
            predictor.inputs.check_columns(self._columns())
        elif missing:
            model, data = names.short_name(predictor.version), names.short_name(self.version)
            needed, known_fields = ", ".join(map(repr, missing)), ", ".join(map(str, self.fields))
            message = f"{model} needs the field {needed}; {data} has {known_fields}"
            raise FailedPrecondition("UNSUITABLE_DATA", message, field="--dataset")

    def rows(
        self,
        mesh: Mesh,
        limit: int | None = None,
        on_sample: Callable[[int, int], None] | None = None,
        *,
        portion: int = BATCH_SIZE,
    ) -> Iterator[list[Row]]:
        """Yields the rows in portions.

        Args:
            mesh: Mesh that has the data set.
            limit: Number of samples, spread evenly over the split; None means all.
            on_sample: Called after each sample with the number of samples read and the number to read.
            portion: Number of rows per portion; see `Predictor.portion`.
        """
        wanted = min(self.num_samples, limit or self.num_samples)
        remaining = self._rows(mesh, wanted, on_sample)
        while batch := list(islice(remaining, portion)):
            yield batch

    def _rows(self, mesh: Mesh, wanted: int, on_sample: Callable[[int, int], None] | None) -> Iterator[Row]:
        count = 0
        for index, message in enumerate(mesh.datasets.read(self.version, self.split)):
            if index * wanted // self.num_samples == (index - 1) * wanted // self.num_samples:
                continue
            count += 1
            yield from _rows_of(from_proto(message, self.fields), self.fields, self.target)
            if on_sample:
                on_sample(count, wanted)
            if count == wanted:
                return

    def values(self, predictor: Predictor, row: Row) -> Mapping[str, Any]:
        """Returns the values of a row, with the columns of a table joined if the model takes them as one array."""
        if not predictor.inputs.joins_columns or predictor.inputs.fields[0] in row.values:
            return row.values
        joined = predictor.inputs.gathered({name: repr(row.values[name]) for name in self._columns()})
        return {**row.values, **predictor.inputs.from_text(joined, Path())}

    def _columns(self) -> list[str]:
        """Returns the names of the columns that are joined for a model that takes them as one array."""
        return [one.name for one in self.fields if one.type in _NUMERIC and not one.repeated and one != self.target]


def source(mesh: Mesh, predictor: Predictor, *, dataset: str, split: str, target: str) -> Source:
    """Finds the samples on which a version is evaluated.

    Args:
        mesh: The mesh.
        predictor: The version.
        dataset: Name of a data set version; empty means the one on which the version was trained.
        split: Name of a split; empty means the first one that the data set has of: `test`, the split on which the run
            was evaluated, `validation` and similar names.
        target: Name of the field that is predicted; empty means the one on which the version was trained or, for an
            imported model, the only suitable one.

    Raises:
        InvalidArgument: BAD_NAME, UNKNOWN_SPLIT, UNKNOWN_FIELD, AMBIGUOUS_TARGET, or MISSING_FIELD if the data set must
            be named.
        FailedPrecondition: UNSUITABLE_DATA.
    """
    trained = predictor.manifest.dataset_version
    model = names.short_name(predictor.version)
    if not dataset and not trained:
        message = f"{model} was not trained in this mesh; name a data set with --dataset"
        raise InvalidArgument("MISSING_FIELD", message, field="--dataset")
    version = mesh.datasets.version(names.version_name(dataset or trained, "datasets", field="--dataset"))
    content = mesh.datasets.manifest(version)
    spec = _spec(mesh, predictor)
    chosen = _split(content, split, spec.eval_split, names.short_name(version.name))
    found = Source(
        version.name,
        content.fields,
        chosen,
        content.num_samples(chosen),
        _target(predictor, content.fields, target, spec.target.field),
    )
    found.check(predictor)
    return found


def scorer(mesh: Mesh, predictor: Predictor, target: Field) -> Scorer:
    """Returns the scorer for the outputs of a version.

    Raises:
        FailedPrecondition: UNSUITABLE_DATA if the outputs do not fit the target.
    """
    output = next((one for one in predictor.manifest.outputs if one.labels), predictor.manifest.outputs[0])
    loss = _spec(mesh, predictor).loss.name
    tokens = [one.name for one in predictor.manifest.inputs if one.field == target.name]
    if loss == _LANGUAGE_MODEL_LOSS and tokens:
        return TokenScorer(output.name, tokens[0])
    size = output.shape[-1] if output.shape else 1
    if target.type in _LABELS:
        labels = output.labels or target.labels
        if target.type == "integer" and loss.endswith("cross_entropy"):
            labels = tuple(map(str, range(max(2, size))))
        if labels and size in (len(labels), -1):
            probabilities = partial(label_probabilities, num_labels=len(labels))
            return ClassScorer(output.name, labels, probabilities, field=target.name)
        if len(labels) == 2 and loss == "binary_cross_entropy":
            return ClassScorer(output.name, labels, _binary_probabilities, field=target.name)
    if target.type in _NUMERIC and not output.labels:
        return NumberScorer(output.name)
    model = names.short_name(predictor.version)
    message = f"the output {output.name!r} of {model}, of shape {list(output.shape)}, cannot be compared with the field"
    hint = "choose another one with --target"
    raise FailedPrecondition(
        "UNSUITABLE_DATA", f"{message} {target.name!r} of type {target.type}; {hint}", field="--target"
    )


def _spec(mesh: Mesh, predictor: Predictor) -> trainer_pb2.RunSpec:
    """Returns the spec of the run that trained a version; an empty one if it is unknown, e.g. without a trainer."""
    from protos.trainer.v1 import trainer_pb2

    run = predictor.manifest.run
    try:
        return mesh.runs.get(run).spec if run and "trainer" in mesh.services else trainer_pb2.RunSpec()
    except (NotFound, InvalidArgument):
        return trainer_pb2.RunSpec()


def _split(content: DatasetManifest, wanted: str, evaluated: str, version: str) -> str:
    known = sorted(content.splits)
    if wanted and wanted not in content.splits:
        message = f"{version} has no split {wanted[:80]!r}; it has {', '.join(known)}"
        raise InvalidArgument("UNKNOWN_SPLIT", message, field="--split")
    usual = (EVALUATION_SPLITS[0], evaluated, *EVALUATION_SPLITS[1:])
    chosen = wanted or next((name for name in usual if name in content.splits), "")
    if not chosen:
        message = f"{version} has no split for evaluation; choose one with --split; it has {', '.join(known)}"
        raise InvalidArgument("UNKNOWN_SPLIT", message, field="--split")
    return chosen


def _target(predictor: Predictor, fields: Sequence[Field], wanted: str, trained: str) -> Field:
    by_name = {field.name: field for field in fields}
    if wanted and wanted not in by_name:
        message = f"there is no field {wanted[:80]!r}; the data set has {', '.join(map(str, fields))}"
        raise InvalidArgument("UNKNOWN_FIELD", message, field="--target")
    if wanted or trained in by_name:
        return by_name[wanted or trained]
    labels = {label for output in predictor.manifest.outputs for label in output.labels}
    free = [field for field in fields if field.name not in predictor.inputs.fields]
    suitable = [field for field in free if field.type == "label" and (not labels or labels & set(field.labels))]
    if not suitable and not labels:
        suitable = [field for field in free if field.type in _NUMERIC]
    if len(suitable) != 1:
        message = f"it is unclear which field the model predicts; name it with --target: {', '.join(map(str, fields))}"
        raise InvalidArgument("AMBIGUOUS_TARGET", message, field="--target")
    return suitable[0]


def _rows_of(sample: Sample, fields: Sequence[Field], target: Field) -> Iterator[Row]:
    """Yields one row per target. A list with as many values as there are targets has one value for each of them."""
    if not target.repeated:
        yield Row(sample.key, sample.values, sample.values[target.name])
        return
    targets = sample.values[target.name]
    lists = [one.name for one in fields if one.repeated and len(sample.values[one.name]) == len(targets)]
    for index, value in enumerate(targets):
        own = {name: sample.values[name][index] for name in lists}
        yield Row(f"{sample.key}[{index}]", {**sample.values, **own}, value, sample.key)


def _binary_probabilities(logit: Array) -> Array:
    """Returns the probabilities of the labels 0 and 1, given the logit of 1."""
    positive = 1 / (1 + np.exp(-np.asarray(logit, np.float64).reshape(())))
    return np.array([1 - positive, positive])
