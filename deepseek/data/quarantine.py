"""Quarantined samples: invalid samples of a data set that are kept aside, each with the reason.

A quarantine is stored in shards, like a split. Its rows have fields of their own, `QUARANTINE_FIELDS`, because an
invalid sample may violate the schema of the data set in any way. docs/data.md describes them for programs in other
languages.
"""

import re
import struct
from collections.abc import Iterator
from typing import Any

from deepseek.data.manifest import Field
from deepseek.data.rejected import Rejected
from deepseek.data.sample import Sample
from deepseek.data.shards import read_shard

QUARANTINE_SPLIT = "/quarantine"
"""The split of the rows in the shards. It is not a valid name, so no sample of a data set can have it."""

QUARANTINE_FIELDS = (
    Field("position", "integer"),
    Field("key", "text"),
    Field("split", "text"),
    Field("place", "text"),
    Field("reason", "text"),
    Field("message", "text"),
    Field("field", "text"),
    Field("names", "text", repeated=True),
    Field("kinds", "text", repeated=True),
    Field("contents", "bytes", repeated=True),
)
"""The fields of a row. One entry each of `names`, `kinds` and `contents` describes a value of the invalid sample."""

_DEFAULTS = {"place": ""}
"""Values of the fields that early quarantines lack."""

REASON = re.compile(r"[A-Z][A-Z0-9_]{0,62}")
MAX_TEXT_LENGTH = 1000
"""Maximum length of a stored message or place; longer ones are cut."""


def to_row(rejected: Rejected) -> Sample:
    """Returns the row that stores an invalid sample.

    >>> row = to_row(Rejected("a", "a.csv:7", "WRONG_TYPE", "n is ...", "n", "train", {"n": [1, None]}, 7))
    >>> row.key, row.values["names"], row.values["kinds"], row.values["contents"]
    ('7', ['n', 'n'], ['integer', 'none'], [b'1', b''])
    >>> from_row(row).values
    {'n': [1, None]}
    """
    encoded = [(name, *_encode(value)) for name, items in rejected.values.items() for value in items]
    return Sample(
        str(rejected.position),
        QUARANTINE_SPLIT,
        {
            "position": rejected.position,
            "key": rejected.key,
            "split": rejected.split,
            "place": rejected.place[:MAX_TEXT_LENGTH],
            "reason": rejected.reason,
            "message": rejected.message[:MAX_TEXT_LENGTH],
            "field": rejected.field,
            "names": [name for name, _, _ in encoded],
            "kinds": [kind for _, kind, _ in encoded],
            "contents": [content for _, _, content in encoded],
        },
    )


def read_rows(data: bytes) -> Iterator[Sample]:
    """Yields the rows of a shard.

    Raises:
        DataLoss: BLOB_DAMAGED, as in `read_shard`.
    """
    return read_shard(data, QUARANTINE_FIELDS, defaults=_DEFAULTS)


def from_row(row: Sample) -> Rejected:
    """Returns the invalid sample in a row. A field without values is missing."""
    stored = row.values
    values: dict[str, list[Any]] = {}
    for name, kind, content in zip(stored["names"], stored["kinds"], stored["contents"], strict=True):
        values.setdefault(name, []).append(_decode(kind, content))
    described = {name: stored[name] for name in ("key", "place", "reason", "message", "field", "split", "position")}
    return Rejected(**described, values=values)


def _encode(value: Any) -> tuple[str, bytes]:
    match value:
        case bytes():
            return "bytes", value
        case str():
            return "text", value.encode(errors="surrogatepass")
        case int():
            return "integer", str(value).encode()
        case float():
            return "number", struct.pack(">d", value)
        case _:
            return "none", b""


def _decode(kind: str, content: bytes) -> Any:
    match kind:
        case "bytes":
            return content
        case "text":
            return content.decode(errors="surrogatepass")
        case "integer":
            return int(content)
        case "number":
            return struct.unpack(">d", content)[0]
        case _:
            return None
