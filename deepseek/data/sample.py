"""One sample of a data set, as clients, ingest and trainer pass it around. Needs no Parquet."""

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import InvalidArgument
from deepseek.data.manifest import SPLIT_NAME

MAX_KEY_LENGTH = 255

_REFUSED = {"Cc": "control character", "Cs": "half of a character", "Zl": "line separator", "Zp": "line separator"}
_BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True)
class Sample:
    """One sample of a data set.

    Attributes:
        key: Unique within the data set; 1 to 255 characters that `check_key` accepts.
        split: Split it belongs to.
        values: For each field of the schema its value (bytes, str, int or float), or a list of them if repeated.
    """

    key: str
    split: str
    values: Mapping[str, Any]


def check_key(key: str, split: str) -> None:
    """Checks the key and split of a sample.

    A key is often a file's name, so it may hold any character of one: every kind of space, joiners, characters that
    are newer than this program. It must not hold a control character, a line separator or a bidirectional control,
    which could make it look like another key in a log.

    Raises:
        InvalidArgument: BAD_KEY or BAD_SPLIT, with the field `samples[<key>].key` or `.split`.
    """
    shown = ascii(key[:80])[1:-1]
    if problem := _key_problem(key):
        raise InvalidArgument("BAD_KEY", f"the key '{shown}' {problem}", field=f"samples[{shown}].key")
    if not SPLIT_NAME.fullmatch(split):
        message = f"samples[{key}]: the split {split[:80]!r} is not 1 to 63 of a-z, 0-9, _, -"
        raise InvalidArgument("BAD_SPLIT", message, field=f"samples[{key}].split")


def _key_problem(key: str) -> str:
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        return f"has {len(key)} characters; give it 1 to {MAX_KEY_LENGTH}"
    for character in key:
        kind = _REFUSED.get(unicodedata.category(character))
        if kind or character in _BIDIRECTIONAL:
            return f"holds U+{ord(character):04X}, a {kind or 'bidirectional control'}; give it another name"
    return ""
