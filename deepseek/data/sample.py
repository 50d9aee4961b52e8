"""A sample of a data set, as used by clients, ingest and the trainer. This module does not import Parquet libraries."""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from common.errors import InvalidArgument
from deepseek.data.manifest import SPLIT_NAME

MAX_KEY_LENGTH = 255

_PLAIN_KEY = re.compile(r"[ -~]{1,255}")
_REFUSED = {"Cc": "control character", "Cs": "lone surrogate", "Zl": "line separator", "Zp": "line separator"}
_BIDIRECTIONAL = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass(frozen=True)
class Sample:
    """One sample of a data set.

    Attributes:
        key: Key that is unique within the data set: 1 to 255 characters that `check_key` accepts.
        split: Name of the split to which the sample belongs.
        values: Value of each field of the schema, by field name. A value is bytes, str, int or float or, for a repeated
            field, a list of such values.
        place: Place from which the client read the sample, e.g. `rows.csv:7`. It is stored only in a quarantine.
    """

    key: str
    split: str
    values: Mapping[str, Any]
    place: str = field(default="", compare=False)


def check_key(key: str, split: str) -> None:
    """Checks the key and split of a sample.

    A key is often a file name, so it may contain joiners, any kind of space, and characters that are newer than
    Python's Unicode tables. A key must not contain control characters, line separators or bidirectional controls,
    because these could make the key look like another key in a log. It must also be valid Unicode.

    Raises:
        InvalidArgument: BAD_KEY with the field `samples[<key>].key`, or BAD_SPLIT with the field
            `samples[<key>].split`.
    """
    shown = ascii(key[:80])[1:-1]
    if problem := _key_problem(key):
        raise InvalidArgument("BAD_KEY", f"the key '{shown}' {problem}", field=f"samples[{shown}].key")
    if not SPLIT_NAME.fullmatch(split):
        message = f"samples[{key}]: the split is {split[:80]!r}; use 1 to 63 characters from a-z, 0-9, _, -"
        raise InvalidArgument("BAD_SPLIT", message, field=f"samples[{key}].split")


def _key_problem(key: str) -> str:
    if _PLAIN_KEY.fullmatch(key):
        return ""
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        return f"has {len(key)} characters; use 1 to {MAX_KEY_LENGTH}"
    for character in key:
        kind = _REFUSED.get(unicodedata.category(character))
        if kind or character in _BIDIRECTIONAL:
            return f"contains U+{ord(character):04X}, a {kind or 'bidirectional control'}; remove this character"
    return ""
