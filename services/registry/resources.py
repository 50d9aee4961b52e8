"""What the registry knows of, as values, and how it is named.

Data sets and models are both a *series* of immutable versions; they share tables and rules and differ in kind alone.
Every resource name is parsed here, on top of `common.names`, and nowhere else. No database in here.
"""

import enum
import re
from dataclasses import dataclass
from typing import Self

from common import names
from common.artifacts import Artifact
from common.errors import InvalidArgument

LATEST = "latest"
"""Where a version number may stand: the newest version."""

WATERMARK_ID_BITS = 48

_NUMBER = re.compile(r"[1-9][0-9]{0,17}")
_WATERMARK_ID = re.compile(rf"[0-9a-f]{{{WATERMARK_ID_BITS // 4}}}")


class Kind(enum.Enum):
    """What a series is a series of; the value is the collection in its resource name."""

    DATASET = "datasets"
    MODEL = "models"

    @property
    def title(self) -> str:
        """For messages: `data set` or `model`."""
        return "data set" if self is Kind.DATASET else "model"

    @classmethod
    def of(cls, name: str, *, field: str) -> Self:
        """The kind of the resource that `name` names.

        Raises:
            InvalidArgument: BAD_NAME if it starts with no collection of this registry.
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
    """A measured figure of a version."""

    name: str
    value: float


@dataclass(frozen=True)
class Version:
    """One immutable state of a data set or model.

    Attributes:
        number: 1, 2, 3, … within its series.
        manifest: The blob that lists what the version consists of.
        num_samples: Samples of a data set; None for a model.
        sources: Resource names of what it was made from, as given.
        metrics: Figures of a model, as given.
        create_us: UTC microseconds.
    """

    kind: Kind
    series_id: str
    number: int
    manifest: Artifact
    num_samples: int | None
    sources: tuple[str, ...]
    metrics: tuple[Metric, ...]
    create_us: int

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
    """One move of an alias; `from_version` is empty for the first."""

    from_version: str
    to_version: str
    time_us: int


@dataclass(frozen=True)
class VersionReference:
    """What a caller may write for a version: its number, `latest` (neither is set) or an alias."""

    kind: Kind
    series_id: str
    number: int | None = None
    alias_id: str | None = None


def series_name(kind: Kind, series_id: str) -> str:
    """Resource name of a data set or model."""
    return f"{kind.value}/{series_id}"


def version_name(kind: Kind, series_id: str, number: int) -> str:
    """Resource name of a version."""
    return f"{kind.value}/{series_id}/versions/{number}"


def alias_name(kind: Kind, series_id: str, alias_id: str) -> str:
    """Resource name of an alias."""
    return f"{kind.value}/{series_id}/aliases/{alias_id}"


def parse_series(name: str, kind: Kind, *, field: str) -> str:
    """The id in the name of a data set or model.

    Raises:
        InvalidArgument: BAD_NAME.
    """
    (series_id,) = names.parse(name, f"{kind.value}/{{}}", field=field)
    return series_id


def parse_version(name: str, *, field: str) -> tuple[Kind, str, int]:
    """Kind, series id and number in the name of a version; `latest` and aliases are not versions.

    Raises:
        InvalidArgument: BAD_NAME.
    """
    kind = Kind.of(name, field=field)
    series_id, number = names.parse(name, f"{kind.value}/{{}}/versions/{{}}", field=field)
    return kind, series_id, _parse_number(number, field=field)


def parse_version_reference(name: str, kind: Kind, *, field: str) -> VersionReference:
    """What `<parent>/versions/<n>`, `<parent>/versions/latest` or `<parent>/aliases/<alias>` stands for.

    Raises:
        InvalidArgument: BAD_NAME.
    """
    if name.split("/")[2:3] == ["aliases"]:
        series_id, alias_id = names.parse(name, f"{kind.value}/{{}}/aliases/{{}}", field=field)
        return VersionReference(kind, series_id, alias_id=alias_id)
    series_id, number = names.parse(name, f"{kind.value}/{{}}/versions/{{}}", field=field)
    if number == LATEST:
        return VersionReference(kind, series_id)
    return VersionReference(kind, series_id, number=_parse_number(number, field=field))


def parse_alias(name: str, *, field: str) -> tuple[Kind, str, str]:
    """Kind, series id and alias id in the name of an alias.

    Raises:
        InvalidArgument: BAD_NAME, also for `latest` and numbers: they would be mistaken for versions.
    """
    kind = Kind.of(name, field=field)
    series_id, alias_id = names.parse(name, f"{kind.value}/{{}}/aliases/{{}}", field=field)
    if alias_id == LATEST or alias_id.isdigit():
        raise InvalidArgument(
            "BAD_NAME", f"the alias {alias_id!r} would be mistaken for a version; choose another id", field=field
        )
    return kind, series_id, alias_id


def watermark_id(number: int) -> str:
    """The id of a watermark in a resource name, of what its mark carries."""
    return f"{number:0{WATERMARK_ID_BITS // 4}x}"


def watermark_name(found_id: str) -> str:
    """Resource name of a watermark."""
    return f"watermarks/{found_id}"


def parse_watermark(name: str, *, field: str) -> str:
    """The id in the name of a watermark.

    Raises:
        InvalidArgument: BAD_NAME.
    """
    (found_id,) = names.parse(name, "watermarks/{}", field=field)
    if not _WATERMARK_ID.fullmatch(found_id):
        message = f"{found_id!r} is not the id of a watermark, which has {WATERMARK_ID_BITS // 4} of 0-9, a-f"
        raise InvalidArgument("BAD_NAME", message, field=field)
    return found_id


def _parse_number(text: str, *, field: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise InvalidArgument("BAD_NAME", f"{text!r} is not a version number (1, 2, 3, …)", field=field)
    return int(text)
