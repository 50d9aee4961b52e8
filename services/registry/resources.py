"""Value types for the registry's resources, and functions that parse their names.

Data sets and models are *series* of immutable versions. Both kinds of series share tables and rules. All of the
registry's resource names are parsed here, with the help of `common.names`. This module does not access the database.
"""

import enum
import re
from dataclasses import dataclass
from typing import Self

from common import names
from common.artifacts import Artifact
from common.errors import InvalidArgument

LATEST = "latest"
"""Refers to the newest version; accepted in place of a version number."""

WATERMARK_ID_BITS = 48

_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_WATERMARK_ID = re.compile(rf"[0-9a-f]{{{WATERMARK_ID_BITS // 4}}}")


class Kind(enum.Enum):
    """The kind of a series. The value is the collection in the series' resource name."""

    DATASET = "datasets"
    MODEL = "models"

    @property
    def title(self) -> str:
        """Name of the kind in messages: `data set` or `model`."""
        return "data set" if self is Kind.DATASET else "model"

    @classmethod
    def of(cls, name: str, *, field: str) -> Self:
        """Returns the kind of the resource with this name.

        Raises:
            InvalidArgument: BAD_NAME if the name does not start with one of the registry's collections.
        """
        collection = name.partition("/")[0]
        for kind in cls:
            if kind.value == collection:
                return kind
        raise InvalidArgument(
            "BAD_NAME", f"{name!r} must start with {' or '.join(repr(kind.value + '/') for kind in cls)}", field=field
        )


@dataclass(frozen=True)
class Series:
    """A named series of versions: a data set or a model."""

    kind: Kind
    series_id: str
    description: str
    create_us: int

    @property
    def name(self) -> str:
        """`datasets/<id>` or `models/<id>`."""
        return series_name(self.kind, self.series_id)


@dataclass(frozen=True)
class Metric:
    """A named metric of a version."""

    name: str
    value: float


@dataclass(frozen=True)
class Guarantee:
    """The privacy guarantee of a model version.

    Attributes:
        epsilon: Upper limit of the privacy loss.
        delta: Probability with which the limit may not hold.
        unit: `client` or `example`.
        adjacency: `add_remove`.
        sampling: `none` or `poisson`.
        debit: Name of the last debit that the guarantee includes; empty if no budget was debited.
    """

    epsilon: float
    delta: float
    unit: str
    adjacency: str
    sampling: str
    debit: str = ""


@dataclass(frozen=True)
class Version:
    """An immutable version of a data set or model.

    Attributes:
        number: Version number within the series: 1, 2, 3, …
        manifest: Artifact that lists the contents of the version.
        num_samples: Number of samples of a data set version; None for a model version.
        sources: Names of the resources that the version was made from, as stated by the caller.
        metrics: Metrics of a model version, as stated by the caller.
        create_us: Creation time, UTC microseconds.
        privacy: Privacy guarantee of a model version, as stated by the caller; None if there is none.
    """

    kind: Kind
    series_id: str
    number: int
    manifest: Artifact
    num_samples: int | None
    sources: tuple[str, ...]
    metrics: tuple[Metric, ...]
    create_us: int
    privacy: Guarantee | None = None

    @property
    def name(self) -> str:
        """`<parent>/versions/<number>`."""
        return version_name(self.kind, self.series_id, self.number)


@dataclass(frozen=True)
class Alias:
    """A movable name for a version."""

    name: str
    version: str
    update_us: int


@dataclass(frozen=True)
class AliasMove:
    """One move of an alias; `from_version` is empty for the first move."""

    from_version: str
    to_version: str
    time_us: int


@dataclass(frozen=True)
class VersionReference:
    """A caller's reference to a version: its number or an alias. If neither is set, the reference is `latest`."""

    kind: Kind
    series_id: str
    number: int | None = None
    alias_id: str | None = None


def series_name(kind: Kind, series_id: str) -> str:
    """Returns the resource name of a data set or model."""
    return f"{kind.value}/{series_id}"


def version_name(kind: Kind, series_id: str, number: int) -> str:
    """Returns the resource name of a version."""
    return f"{kind.value}/{series_id}/versions/{number}"


def alias_name(kind: Kind, series_id: str, alias_id: str) -> str:
    """Returns the resource name of an alias."""
    return f"{kind.value}/{series_id}/aliases/{alias_id}"


def parse_series(name: str, kind: Kind, *, field: str) -> str:
    """Returns the id in the name of a data set or model.

    Raises:
        InvalidArgument: BAD_NAME.
    """
    (series_id,) = names.parse(name, f"{kind.value}/{{}}", field=field)
    return series_id


def parse_version(name: str, *, field: str) -> tuple[Kind, str, int]:
    """Returns the kind, series id and number in the name of a version. `latest` and aliases are rejected.

    Raises:
        InvalidArgument: BAD_NAME.
    """
    kind = Kind.of(name, field=field)
    series_id, number = names.parse(name, f"{kind.value}/{{}}/versions/{{}}", field=field)
    return kind, series_id, _parse_number(number, "version", field=field)


def parse_version_reference(name: str, kind: Kind, *, field: str) -> VersionReference:
    """Parses `<parent>/versions/<n>`, `<parent>/versions/latest` or `<parent>/aliases/<alias>`.

    Raises:
        InvalidArgument: BAD_NAME.
    """
    if name.split("/")[2:3] == ["aliases"]:
        series_id, alias_id = names.parse(name, f"{kind.value}/{{}}/aliases/{{}}", field=field)
        return VersionReference(kind, series_id, alias_id=alias_id)
    series_id, number = names.parse(name, f"{kind.value}/{{}}/versions/{{}}", field=field)
    if number == LATEST:
        return VersionReference(kind, series_id)
    return VersionReference(kind, series_id, number=_parse_number(number, "version", field=field))


def parse_alias(name: str, *, field: str) -> tuple[Kind, str, str]:
    """Returns the kind, series id and alias id in the name of an alias.

    Raises:
        InvalidArgument: BAD_NAME, also if the alias id is `latest` or a number and could thus be mistaken for a
            version.
    """
    kind = Kind.of(name, field=field)
    series_id, alias_id = names.parse(name, f"{kind.value}/{{}}/aliases/{{}}", field=field)
    if alias_id == LATEST or alias_id.isdigit():
        raise InvalidArgument(
            "BAD_NAME", f"the alias id {alias_id!r} could be mistaken for a version; choose another", field=field
        )
    return kind, series_id, alias_id


def watermark_id(number: int) -> str:
    """Converts a watermark's number, as read from a mark, to the id in the watermark's resource name."""
    return f"{number:0{WATERMARK_ID_BITS // 4}x}"


def watermark_name(found_id: str) -> str:
    """Returns the resource name of a watermark."""
    return f"watermarks/{found_id}"


def parse_watermark(name: str, *, field: str) -> str:
    """Returns the id in the name of a watermark.

    Raises:
        InvalidArgument: BAD_NAME.
    """
    (found_id,) = names.parse(name, "watermarks/{}", field=field)
    if not _WATERMARK_ID.fullmatch(found_id):
        message = (
            f"{found_id!r} is not a watermark id; an id has {WATERMARK_ID_BITS // 4} lower-case hexadecimal digits"
        )
        raise InvalidArgument("BAD_NAME", message, field=field)
    return found_id


def budget_name(budget_id: str) -> str:
    """Returns the resource name of a privacy budget."""
    return f"budgets/{budget_id}"


def debit_name(budget_id: str, number: int) -> str:
    """Returns the resource name of a debit."""
    return f"budgets/{budget_id}/debits/{number}"


def parse_budget(name: str, *, field: str) -> str:
    """Returns the id in the name of a privacy budget.

    Raises:
        InvalidArgument: BAD_NAME.
    """
    (budget_id,) = names.parse(name, "budgets/{}", field=field)
    return budget_id


def parse_debit(name: str, *, field: str) -> tuple[str, int]:
    """Returns the id of the budget and the number in the name of a debit.

    Raises:
        InvalidArgument: BAD_NAME.
    """
    budget_id, number = names.parse(name, "budgets/{}/debits/{}", field=field)
    return budget_id, _parse_number(number, "debit", field=field)


def _parse_number(text: str, what: str, *, field: str) -> int:
    if not _NUMBER.fullmatch(text):
        message = f"{text!r} is not the number of a {what}; {what}s are numbered 1, 2, 3, …"
        raise InvalidArgument("BAD_NAME", message, field=field)
    return int(text)
