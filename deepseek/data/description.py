"""A description of a data set version: statistics, duplicates, samples for a contact sheet, and drift."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from deepseek.data.key_set import KeySet
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample
from deepseek.data.statistics import FieldStatistics, Statistics, content_digest

if TYPE_CHECKING:
    from deepseek.contact_sheet import Tile

SHEET_TILES = 20
"""Number of samples on a contact sheet."""


@dataclass(frozen=True)
class Drift:
    """How far the distribution of a field has moved; see `deepseek.data.drift`.

    Attributes:
        field: Name of the field.
        psi: Population stability index.
        ks: Kolmogorov-Smirnov distance; None for labels.
        p_value: p-value of the Kolmogorov-Smirnov test; None for labels.
    """

    field: str
    psi: float
    ks: float | None = None
    p_value: float | None = None

    @property
    def is_large(self) -> bool:
        """Whether the shift is usually called large."""
        from deepseek.data.drift import LARGE_PSI

        return self.psi > LARGE_PSI

    def row(self) -> tuple[str, ...]:
        """Returns the row of a table."""
        numbers = ["" if one is None else f"{one:.3f}" for one in (self.psi, self.ks, self.p_value)]
        return self.field, *numbers, "large" if self.is_large else ""

    def to_json(self) -> dict[str, Any]:
        """Returns the attributes as a JSON object."""
        return {**asdict(self), "is_large": self.is_large}


class Description:
    """Describes the samples that are added. Call `close` after the last one.

    Args:
        fields: Schema of the samples.
        num_samples: Number of samples that will be added, from which those for the contact sheet are chosen.

    Attributes:
        fields: Schema of the samples.
        statistics: Statistics of the samples.
        num_duplicates: Number of samples whose values equal those of an earlier sample.
        tiles: Samples for a contact sheet, evenly spaced; empty if no field is an image.
    """

    def __init__(self, fields: Sequence[Field], num_samples: int) -> None:
        self.fields = tuple(fields)
        self.statistics = Statistics(fields)
        self.num_duplicates = 0
        self.tiles: list[Tile] = []
        self._contents = KeySet()
        count = min(SHEET_TILES, num_samples)
        self._chosen = {i * num_samples // count for i in range(count)}

    def add(self, sample: Sample) -> None:
        """Adds a sample."""
        if self.statistics.num_samples in self._chosen:
            self._add_tile(sample)
        self.statistics.add(sample)
        self.num_duplicates += not self._contents.add(content_digest(sample, self.fields))

    def close(self) -> None:
        """Frees the memory that only `add` needs."""
        self._contents.close()

    def drift(self, before: "Description") -> list[Drift]:
        """Returns the drift of every field that both versions have with the same type.

        For texts, images, sounds and bytes, the distributions of lengths are compared.

        Args:
            before: Description of the earlier version.
        """
        types = {one.name: one.type for one in before.fields}
        return [
            _drift(one, before.statistics.fields[one.name], self.statistics.fields[one.name])
            for one in self.fields
            if types.get(one.name) == one.type
        ]

    def to_json(self) -> dict[str, Any]:
        """Returns the description as a JSON object, without the contact sheet."""
        schema = [{"name": one.name, "type": one.type, "repeated": one.repeated} for one in self.fields]
        return {"schema": schema, **self.statistics.to_json(), "num_duplicates": self.num_duplicates}

    def _add_tile(self, sample: Sample) -> None:
        from deepseek.contact_sheet import Tile

        image = next((one for one in self.fields if one.type == "image"), None)
        if image is None or not (images := self._values(sample, image)):
            return
        labels = [str(v) for one in self.fields if one.type == "label" for v in self._values(sample, one)[:3]]
        texts = [v for one in self.fields if one.type == "text" for v in self._values(sample, one)[:1]]
        self.tiles.append(Tile(images[0], texts[0] if texts else sample.key, ", ".join(labels)))

    def _values(self, sample: Sample, one: Field) -> list[Any]:
        return list(sample.values[one.name]) if one.repeated else [sample.values[one.name]]


def _drift(one: Field, before: FieldStatistics, after: FieldStatistics) -> Drift:
    from deepseek.data import drift

    if one.type == "label":
        return Drift(one.name, drift.psi(Counter(before.label_counts), after.label_counts))
    if not before.reservoir or not after.reservoir:
        return Drift(one.name, 0.0)
    return Drift(
        one.name,
        drift.psi_of_numbers(before.reservoir, after.reservoir),
        *drift.ks(before.reservoir, after.reservoir),
    )
