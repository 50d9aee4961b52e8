"""The manifest of a data set version: the fields of the version, and the shards of each split.

A manifest is stored as an artifact. Its digest serves as the data digest of the version, so the manifest describes only
the content: it contains no times and no upload names. It also contains no URIs, because several stores may hold the
same data. The format is specified in docs/data.md, for programs in other languages. The shards themselves are written
and read in `deepseek.data.shards`.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from common.errors import InvalidArgument
from deepseek.data import canonical_json
from deepseek.data.canonical_json import Node

MEDIA_TYPE = "application/vnd.deepseek.dataset.v1+json"
"""Media type of a dataset manifest."""

FIELD_TYPES = ("image", "audio", "text", "label", "integer", "number", "bytes")
"""Field types, in the order of the enum `FieldType` in the ingest protocol."""

DEFAULT_ENCODERS = {
    "image": "image",
    "audio": "audio",
    "text": "words",
    "label": "label",
    "integer": "integer",
    "number": "number",
}
"""Default encoder of each field type, as a name in the registry of encoders. Field types not listed have no default."""

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
        name: Name of the field: 1 to 63 characters from a-z, 0-9 and `_`, starting with a letter.
        type: Type of the values, one of FIELD_TYPES.
        repeated: Whether each sample holds a list of values for this field instead of a single value.
        labels: Allowed values, in the order of their class numbers, if the type is `label`; otherwise empty.
    """

    name: str
    type: str
    repeated: bool = False
    labels: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Returns the name and the type, for messages."""
        return f"{self.name} ({'list of ' if self.repeated else ''}{self.type})"

    @cached_property
    def label_set(self) -> frozenset[str]:
        """Labels in composed form (NFC), as a set for fast lookup. A field may have tens of thousands of labels."""
        return frozenset(unicodedata.normalize("NFC", label) for label in self.labels)


@dataclass(frozen=True)
class Shard:
    """One Parquet file, which holds samples of one split.

    Attributes:
        sha256: SHA-256 of the file, in lower-case hexadecimal.
        size_bytes: Size of the file in bytes.
        num_samples: Number of samples in the file, at least 1.
    """

    sha256: str
    size_bytes: int
    num_samples: int


@dataclass(frozen=True)
class DatasetManifest:
    """The content of a data set version.

    Attributes:
        fields: Fields, in schema order.
        splits: Shards of each split, in the order in which they are read. The keys are the names of the splits.
        quarantine: Shards of the invalid samples that were kept aside; see `deepseek.data.quarantine`.
    """

    fields: tuple[Field, ...]
    splits: dict[str, tuple[Shard, ...]] = field(default_factory=dict)
    quarantine: tuple[Shard, ...] = ()

    def num_samples(self, split: str | None = None) -> int:
        """Returns the number of samples in a split, or in all splits together if `split` is None.

        Raises:
            InvalidArgument: UNKNOWN_SPLIT; the message lists the existing splits.
        """
        names = list(self.splits) if split is None else [split]
        return sum(shard.num_samples for name in names for shard in self.shards(name))

    def shards(self, split: str) -> tuple[Shard, ...]:
        """Returns the shards of a split.

        Raises:
            InvalidArgument: UNKNOWN_SPLIT; the message lists the existing splits.
        """
        if split not in self.splits:
            known = ", ".join(sorted(self.splits)) or "none"
            raise InvalidArgument("UNKNOWN_SPLIT", f"the data set has no split {split!r}; its splits are: {known}")
        return self.splits[split]

    def field(self, name: str) -> Field:
        """Returns the field with the given name.

        Raises:
            InvalidArgument: UNKNOWN_FIELD; the message lists the existing fields.
        """
        for candidate in self.fields:
            if candidate.name == name:
                return candidate
        known = ", ".join(candidate.name for candidate in self.fields)
        raise InvalidArgument("UNKNOWN_FIELD", f"the data set has no field {name!r}; its fields are: {known}")

    def to_bytes(self) -> bytes:
        """Returns the manifest as canonical JSON. Equal manifests give equal bytes."""
        members: dict[str, Any] = {
            "format": _FORMAT,
            "fields": [
                {"name": f.name, "type": f.type, "repeated": f.repeated, "labels": list(f.labels)} for f in self.fields
            ],
            "splits": {name: list(map(asdict, shards)) for name, shards in self.splits.items()},
        }
        if self.quarantine:
            members["quarantine"] = list(map(asdict, self.quarantine))
        return canonical_json.dumps(members)

    @classmethod
    def from_bytes(cls, data: bytes) -> "DatasetManifest":
        """Reads an untrusted manifest.

        Raises:
            InvalidArgument: BAD_MANIFEST; the message names the path of the invalid value.
        """
        root = canonical_json.parse(data, reason="BAD_MANIFEST", document="dataset_manifest")
        members = root.object("format", "fields", "splits", optional=["quarantine"])
        if (version := members["format"].integer(minimum=1)) != _FORMAT:
            members["format"].fail(f"is {version}, but this program reads only format {_FORMAT}; update the program")
        fields = tuple(_read_field(node) for node in members["fields"].array(max_items=_MAX_FIELDS))
        check_schema(fields, reason="BAD_MANIFEST", path=f"{root.path}.fields", stored=True)
        splits = {}
        for name, node in members["splits"].mapping(max_items=_MAX_SPLITS).items():
            if not SPLIT_NAME.fullmatch(name):
                node.fail("is not a valid split name; use 1 to 63 characters from a-z, 0-9, _, -")
            splits[name] = tuple(_read_shard(shard) for shard in node.array())
        quarantine = members["quarantine"].array() if "quarantine" in members else []
        return cls(fields, splits, tuple(map(_read_shard, quarantine)))


def check_schema(
    fields: Sequence[Field], *, reason: str = "BAD_SCHEMA", path: str = "schema.fields", stored: bool = False
) -> None:
    """Checks that fields form a valid schema.

    Args:
        fields: Fields of the schema.
        reason: Reason code of the error that is raised if the schema is invalid.
        path: Path of the list of fields in the caller's document, for use in errors.
        stored: Whether the schema belongs to data that is already stored. Such a schema may list a label in two Unicode
            forms, because earlier releases treated the two forms as different labels.

    Raises:
        InvalidArgument: The schema has no fields or too many fields; the name of a field is invalid or not unique; the
            type of a field is unknown; a field of type `label` has no labels, too many labels, an invalid label or a
            duplicate label (two Unicode forms of a label are duplicates unless `stored` is True); or a field of another
            type has labels.
    """
    if not fields:
        raise InvalidArgument(reason, "the schema has no fields; it needs at least one", field=path)
    if len(fields) > _MAX_FIELDS:
        message = f"the schema has {len(fields)} fields; at most {_MAX_FIELDS} are allowed"
        raise InvalidArgument(reason, message, field=path)
    names: set[str] = set()
    for i, one in enumerate(fields):
        if not FIELD_NAME.fullmatch(one.name):
            rule = "1 to 63 characters from a-z, 0-9 and _, starting with a letter"
            message = f"the field name is {one.name[:80]!r}; use {rule}"
            raise InvalidArgument(reason, message, field=f"{path}[{i}].name")
        if one.name in names:
            message = f"the field name {one.name!r} is used twice; names must be unique"
            raise InvalidArgument(reason, message, field=f"{path}[{i}].name")
        names.add(one.name)
        if one.type not in FIELD_TYPES:
            message = f"field {one.name!r} has the unknown type {one.type[:80]!r}; use one of: {', '.join(FIELD_TYPES)}"
            raise InvalidArgument(reason, message, field=f"{path}[{i}].type")
        if problem := _labels_problem(one, stored=stored):
            raise InvalidArgument(reason, f"field {one.name!r} {problem}", field=f"{path}[{i}].labels")


def _labels_problem(one: Field, *, stored: bool) -> str:
    if one.type != "label":
        return f"has the type {one.type}, so it must not list labels" if one.labels else ""
    if not one.labels:
        return "has the type label, so it must list its labels"
    if len(one.labels) > _MAX_LABELS:
        return f"has {len(one.labels)} labels; at most {_MAX_LABELS} are allowed"
    if not all(label and canonical_json.is_unicode(label) for label in one.labels):
        return "has a label that is empty or not valid Unicode"
    if repeated := _repeated(one.labels):
        return f"lists the label {repeated[:80]!r} twice"
    if not stored and (repeated := _repeated([unicodedata.normalize("NFC", label) for label in one.labels])):
        return f"lists the label {repeated[:80]!r} in two Unicode forms; keep one of them"
    return ""


def _repeated(labels: Sequence[str]) -> str:
    """Returns a label that occurs more than once; empty if every label is unique."""
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
