"""Statistics of the samples of a data set, computed in one pass with constant memory per field."""

import hashlib
import math
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from deepseek.data.manifest import Field
from deepseek.data.sample import Sample

RESERVOIR_VALUES = 10_000
"""Number of values of a field that are kept, to compare distributions. Up to this number, comparisons are exact."""


@dataclass
class FieldStatistics:
    """Statistics of one field.

    Attributes:
        num_values: Number of values. For a repeated field, this differs from the number of samples.
        num_empty: Number of values that are an empty text or no bytes, and of samples with an empty list.
        labels: Number of values per label, by split; only for labels.
        minimum: Smallest value; for text, images, sounds and bytes, the smallest length.
        maximum: Largest value or length; see `minimum`.
        mean: Mean of the values or lengths.
        reservoir: Uniform random selection of the values or lengths, at most RESERVOIR_VALUES; not for labels.
    """

    num_values: int = 0
    num_empty: int = 0
    labels: dict[str, Counter[str]] = field(default_factory=dict)
    minimum: float = math.inf
    maximum: float = -math.inf
    mean: float = 0.0
    reservoir: list[float] = field(default_factory=list)
    _squares: float = 0.0
    _random: random.Random = field(default_factory=lambda: random.Random(0))

    @property
    def deviation(self) -> float:
        """Standard deviation of the values or lengths; 0 if there are fewer than two."""
        return math.sqrt(self._squares / (self.num_values - 1)) if self.num_values > 1 else 0.0

    @property
    def label_counts(self) -> Counter[str]:
        """Number of values per label, over all splits. It is computed at each access."""
        return sum(self.labels.values(), Counter())

    def add_label(self, label: str, split: str) -> None:
        """Adds a label."""
        self.num_values += 1
        self.labels.setdefault(split, Counter())[label] += 1

    def add_number(self, value: float) -> None:
        """Adds a number or a length, with Welford's update of the variance and Vitter's algorithm R."""
        self.num_values += 1
        if value < self.minimum:
            self.minimum = value
        if value > self.maximum:
            self.maximum = value
        step = value - self.mean
        self.mean += step / self.num_values
        self._squares += step * (value - self.mean)
        if len(self.reservoir) < RESERVOIR_VALUES:
            self.reservoir.append(value)
        elif (place := int(self._random.random() * self.num_values)) < RESERVOIR_VALUES:
            self.reservoir[place] = value


Summary = tuple[str, list[list[Any]]]
"""The parts of a sample that statistics need: its split and, by field, labels, numbers and lengths of other values."""


def summary_of(sample: Sample, fields: Sequence[Field]) -> Summary:
    """Returns the summary of a valid sample."""
    found = []
    for one in fields:
        value = sample.values[one.name]
        values = list(value) if one.repeated else [value]
        found.append(values if one.type in ("label", "integer", "number") else list(map(len, values)))
    return sample.split, found


class Statistics:
    """Statistics of samples.

    Args:
        fields: Schema of the samples.

    Attributes:
        splits: Number of samples per split.
        fields: Statistics by field name.
    """

    def __init__(self, fields: Sequence[Field]) -> None:
        self._schema = tuple(fields)
        self.splits: Counter[str] = Counter()
        self.fields: dict[str, FieldStatistics] = {one.name: FieldStatistics() for one in fields}

    @property
    def num_samples(self) -> int:
        """Number of samples."""
        return self.splits.total()

    def add(self, sample: Sample) -> None:
        """Adds a valid sample."""
        self.add_summary(summary_of(sample, self._schema))

    def add_summary(self, summary: Summary) -> None:
        """Adds the summary of a valid sample."""
        split, columns = summary
        self.splits[split] += 1
        for one, values in zip(self._schema, columns, strict=True):
            found = self.fields[one.name]
            found.num_empty += not values
            for item in values:
                if one.type == "label":
                    found.add_label(item, split)
                    continue
                if one.type not in ("integer", "number"):
                    found.num_empty += not item
                found.add_number(item)

    def unbalanced_splits(self) -> list[str]:
        """Returns a sentence about each label that some splits have and the split `train` lacks."""
        found = []
        for name, statistics in self.fields.items():
            seen = statistics.labels.get("train")
            missing = sorted(statistics.label_counts.keys() - seen.keys()) if seen else []
            if missing:
                shown = ", ".join(map(repr, missing[:5])) + (", …" if len(missing) > 5 else "")
                found.append(f"the split train has no sample with the {name} {shown}")
        return found

    def to_json(self) -> dict[str, Any]:
        """Returns the statistics as a JSON object."""
        return {"num_samples": self.num_samples, "splits": dict(sorted(self.splits.items())), "fields": self._fields()}

    def _fields(self) -> Mapping[str, Any]:
        shown: dict[str, Any] = {}
        for one in self._schema:
            found = self.fields[one.name]
            shown[one.name] = {"type": one.type, "num_values": found.num_values, "num_empty": found.num_empty}
            if one.type == "label":
                counts = found.label_counts
                shown[one.name]["labels"] = {label: counts[label] for label in one.labels}
            elif found.num_values:
                shown[one.name] |= {
                    "minimum": found.minimum,
                    "maximum": found.maximum,
                    "mean": found.mean,
                    "deviation": found.deviation,
                }
        return shown


def content_digest(sample: Sample, fields: Sequence[Field]) -> bytes:
    """Returns a digest of a sample's values, 16 bytes. It does not depend on the key and the split."""
    digest = hashlib.blake2b(digest_size=16)
    for one in fields:
        value = sample.values[one.name]
        digest.update(b"%d:%b" % (len(value), value) if isinstance(value, bytes) else repr(value).encode() + b"\0")
    return digest.digest()
