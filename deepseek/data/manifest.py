"""The manifest of a data set version: its fields, and the shards of every split.

A manifest is itself an artifact; its digest is the version's data digest. It therefore holds content only: no URIs (the
same data may lie in several stores), no times, no names of uploads. docs/data.md describes the format for other
languages. It knows nothing of how shards are made or read (`deepseek.data.shards`).
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

from common.errors import InvalidArgument
from deepseek.data import canonical_json
from deepseek.data.canonical_json import Node

MEDIA_TYPE = "application/vnd.deepseek.dataset.v1+json"
"""Media type of a dataset manifest."""

FIELD_TYPES = ("image", "audio", "text", "label", "integer", "number", "bytes")
"""What a field can hold, in the order of the FieldType numbers of the ingest protocol."""

FIELD_NAME = re.compile(r"[a-z][a-z0-9_]{0,62}")
SPLIT_NAME = re.compile(r"[a-z0-9_-]{1,63}")
SHA256 = re.compile(r"[0-9a-f]{64}")

_FORMAT = 1
_MAX_FIELDS = 256
_MAX_LABELS = 65_536
_MAX_SPLITS = 256


@dataclass(frozen=True)
class Field:
    """One column of a data set.

    Attributes:
        name: 1 to 63 of a-z, 0-9, `_`, starting with a letter.
        type: One of FIELD_TYPES.
        repeated: True if a sample holds a list of values.
        labels: For `label`: the allowed values in the order of their class numbers.
    """

    name: str
    type: str
    repeated: bool = False
    labels: tuple[str, ...] = ()

    @cached_property
    def label_set(self) -> frozenset[str]:
        """The labels in composed form (NFC), as a set: a field may have tens of thousands."""
        return frozenset(unicodedata.normalize("NFC", label) for label in self.labels)


@dataclass(frozen=True)
class Shard:
    """One Parquet file of a split.

    Attributes:
        sha256: Digest of its bytes, lower-case hexadecimal.
        size_bytes: Its size.
        num_samples: Rows in it, at least 1.
    """

    sha256: str
    size_bytes: int
    num_samples: int


@dataclass(frozen=True)
class DatasetManifest:
    """What a data set version consists of.

    Attributes:
        fields: The columns, in schema order.
        splits: The shards of every split, in reading order.
    """

    fields: tuple[Field, ...]
    splits: dict[str, tuple[Shard, ...]] = field(default_factory=dict)

    def num_samples(self, split: str | None = None) -> int:
        """Counts the samples of a split, or of all splits together.

        Raises:
            InvalidArgument: UNKNOWN_SPLIT; the message lists the splits there are.
        """
        names = list(self.splits) if split is None else [split]
        return sum(shard.num_samples for name in names for shard in self.shards(name))

    def shards(self, split: str) -> tuple[Shard, ...]:
        """Returns the shards of a split.

        Raises:
            InvalidArgument: UNKNOWN_SPLIT; the message lists the splits there are.
        """
        if split not in self.splits:
            known = ", ".join(sorted(self.splits)) or "none"
            raise InvalidArgument("UNKNOWN_SPLIT", f"the data set has no split {split!r}; it has: {known}")
        return self.splits[split]

    def field(self, name: str) -> Field:
        """Returns the field with this name.

        Raises:
            InvalidArgument: UNKNOWN_FIELD; the message lists the fields there are.
        """
        for candidate in self.fields:
            if candidate.name == name:
                return candidate
        known = ", ".join(candidate.name for candidate in self.fields)
        raise InvalidArgument("UNKNOWN_FIELD", f"the data set has no field {name!r}; it has: {known}")

    def to_bytes(self) -> bytes:
        """Writes the manifest canonically: equal manifests give equal bytes."""
        return canonical_json.dumps(
            {
                "format": _FORMAT,
                "fields": [
                    {"name": f.name, "type": f.type, "repeated": f.repeated, "labels": list(f.labels)}
                    for f in self.fields
                ],
                "splits": {
                    name: [
                        {"sha256": s.sha256, "size_bytes": s.size_bytes, "num_samples": s.num_samples} for s in shards
                    ]
                    for name, shards in self.splits.items()
                },
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> "DatasetManifest":
        """Reads a manifest that anyone may have written.

        Raises:
            InvalidArgument: BAD_MANIFEST with the path of what is wrong.
        """
        root = canonical_json.parse(data, reason="BAD_MANIFEST", document="dataset_manifest")
        members = root.object("format", "fields", "splits")
        if (version := members["format"].integer(minimum=1)) != _FORMAT:
            members["format"].fail(f"is {version}; this program reads format {_FORMAT}: update it")
        fields = tuple(_read_field(node) for node in members["fields"].array(max_items=_MAX_FIELDS))
        check_schema(fields, reason="BAD_MANIFEST", path=f"{root.path}.fields", stored=True)
        splits = {}
        for name, node in members["splits"].mapping(max_items=_MAX_SPLITS).items():
            if not SPLIT_NAME.fullmatch(name):
                node.fail("is not the name of a split (1 to 63 of a-z, 0-9, _, -)")
            splits[name] = tuple(_read_shard(shard) for shard in node.array())
        return cls(fields, splits)


def check_schema(
    fields: Sequence[Field], *, reason: str = "BAD_SCHEMA", path: str = "schema.fields", stored: bool = False
) -> None:
    """Checks that fields make a usable schema.

    Args:
        fields: The columns.
        reason: Reason of the error.
        path: Path of the list of fields in the caller's document.
        stored: The schema belongs to stored data; in older data two Unicode forms of one label may be two labels.

    Raises:
        InvalidArgument: There is no field, a name is bad or repeated, a type is unknown, or labels are missing, empty,
            repeated, given in two Unicode forms, or given to a field that is not a label.
    """
    if not fields:
        raise InvalidArgument(reason, "a schema needs at least one field", field=path)
    if len(fields) > _MAX_FIELDS:
        raise InvalidArgument(reason, f"a schema has at most {_MAX_FIELDS} fields", field=path)
    names: set[str] = set()
    for i, one in enumerate(fields):
        if not FIELD_NAME.fullmatch(one.name):
            message = f"field name {one.name[:80]!r} is not 1 to 63 of a-z, 0-9, _, starting with a letter"
            raise InvalidArgument(reason, message, field=f"{path}[{i}].name")
        if one.name in names:
            raise InvalidArgument(reason, f"field {one.name!r} is given twice", field=f"{path}[{i}].name")
        names.add(one.name)
        if one.type not in FIELD_TYPES:
            message = f"field {one.name!r} has the type {one.type[:80]!r}; known: {', '.join(FIELD_TYPES)}"
            raise InvalidArgument(reason, message, field=f"{path}[{i}].type")
        if problem := _labels_problem(one, stored=stored):
            raise InvalidArgument(reason, f"field {one.name!r} {problem}", field=f"{path}[{i}].labels")


def _labels_problem(one: Field, *, stored: bool) -> str:
    if one.type != "label":
        return f"is of type {one.type}, which has no labels" if one.labels else ""
    if not one.labels:
        return "is a label, so it must list its labels"
    if len(one.labels) > _MAX_LABELS:
        return f"has {len(one.labels)} labels; at most {_MAX_LABELS} are allowed"
    if not all(label and canonical_json.is_unicode(label) for label in one.labels):
        return "has a label that is empty or not valid Unicode"
    if repeated := _repeated(one.labels):
        return f"lists the label {repeated[:80]!r} twice"
    if not stored and (repeated := _repeated([unicodedata.normalize("NFC", label) for label in one.labels])):
        return f"lists the label {repeated[:80]!r} twice, composed and decomposed; keep one of them"
    return ""


def _repeated(labels: Sequence[str]) -> str:
    """The first label that is listed more than once; empty if there is none."""
    label, count = Counter(labels).most_common(1)[0]
    return label if count > 1 else ""


def _read_field(node: Node) -> Field:
    members = node.object("name", "type", "repeated", "labels")
    return Field(
        name=members["name"].string(),
        type=members["type"].string(),
        repeated=members["repeated"].boolean(),
        labels=tuple(label.string() for label in members["labels"].array(max_items=_MAX_LABELS)),
    )


def _read_shard(node: Node) -> Shard:
    members = node.object("sha256", "size_bytes", "num_samples")
    return Shard(
        sha256=members["sha256"].string(SHA256),
        size_bytes=members["size_bytes"].integer(minimum=1),
        num_samples=members["num_samples"].integer(minimum=1),
    )
