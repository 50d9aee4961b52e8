"""A sample that was kept out of the splits of a data set because it is invalid."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as attribute
from typing import Any

from common.errors import MeshError


@dataclass(frozen=True)
class Rejected:
    """One invalid sample, on its way to or from a quarantine.

    Attributes:
        key: Key of the sample, even if it is not a valid key; empty if it could not be read.
        place: Place from which the client read the sample, `<file>` or `<file>:<line>`; empty if it is unknown.
        reason: Machine-readable reason, e.g. `DAMAGED_IMAGE`; the same reasons as in errors.
        message: Problem and remedy, for people.
        field: Name of the invalid field; empty if the whole sample is invalid.
        split: Split of the sample, even if it is not a valid name.
        values: What could be read of the sample: a list of bytes, str, int, float and None by field name.
        position: Position among all samples that were sent to the upload, starting at 1; 0 if it is not known yet.
    """

    key: str
    place: str
    reason: str
    message: str
    field: str = ""
    split: str = ""
    values: Mapping[str, Sequence[Any]] = attribute(default_factory=dict)
    position: int = 0

    @classmethod
    def from_error(
        cls,
        key: str,
        place: str,
        error: MeshError,
        split: str = "",
        values: Mapping[str, Sequence[Any]] | None = None,
    ) -> "Rejected":
        """Returns the rejection of a sample by an error."""
        own = f"samples[{key}]"  # a key that is not valid appears in another form
        where = error.field.removeprefix(own) if error.field.startswith(own) else error.field.rpartition("]")[2]
        return cls(key, place, error.reason, error.message, where.removeprefix("."), split, values or {})

    def to_json(self) -> dict[str, str]:
        """Returns the description of the sample as a JSON object, without its values."""
        return {"key": self.key, "place": self.place, "reason": self.reason, "message": self.message}
