"""Decides to which split a row belongs."""

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import InvalidArgument

_NAMES = {"train": "train", "training": "train", "test": "test", "testing": "test"} | {
    name: name for name in ("val", "valid", "validation", "dev", "eval")
}
_PREFIX = re.compile(r"([a-z]+)(?![a-z])")


def split_of_name(name: str) -> str:
    """Returns the split that the name of a file or folder states; empty if it states none.

    >>> split_of_name("Train"), split_of_name("data/test-00000-of-00002.parquet"), split_of_name("trainers")
    ('train', 'test', '')
    """
    found = _PREFIX.match(name.rpartition("/")[2].lower())
    return _NAMES.get(found[1], "") if found else ""


def split_of_folder(name: str) -> str:
    """Returns the split that the whole name of a folder states; empty if it states none.

    >>> split_of_folder("Train"), split_of_folder("train-station")
    ('train', '')
    """
    return _NAMES.get(name.lower(), "")


@dataclass(frozen=True)
class Splitter:
    """Assigns rows to splits.

    Attributes:
        default: Split of rows that no other rule assigns.
        column: Column that holds the split; empty if there is none.
        test_share: Share of the rows of the split `default` that is assigned to the split `test` instead, from 0 to
            1. The choice depends only on the seed and on the key of the row, so a row keeps its split if rows are
            added or removed. The actual share is random: for n rows, its standard deviation is sqrt(p (1 - p) / n).
        seed: Seed of the choice.

    >>> Splitter(test_share=0.5).split("b", "", {}), Splitter().split("b", "test", {})
    ('train', 'test')
    """

    default: str = "train"
    column: str = ""
    test_share: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.test_share < 1:
            message = f"the test share is {self.test_share}; use a number from 0 to less than 1"
            raise InvalidArgument("BAD_VALUE", message, field="test_share")
        if self.column and self.test_share:
            message = "the splits are either in a column or drawn at random; use --split-column or --test-share"
            raise InvalidArgument("BAD_VALUE", message, field="test_share")

    def split(self, key: str, split: str, values: Mapping[str, Any]) -> str:
        """Returns the split of a row.

        Args:
            key: Key of the sample.
            split: Split that the source states; empty if it states none.
            values: Values of the row.

        Raises:
            InvalidArgument: BAD_SPLIT if the column holds no text.
        """
        if self.column:
            stated = values.get(self.column)
            if stated is None or not str(stated).strip():
                raise InvalidArgument("BAD_SPLIT", f"the column {self.column!r}, which holds the split, is empty")
            return str(stated).strip().lower()
        split = split or self.default
        if self.test_share and split == self.default and self._draw(key) < self.test_share:
            return "test"
        return split

    def _draw(self, key: str) -> float:
        digest = hashlib.sha256(f"{self.seed}:{key}".encode(errors="surrogatepass")).digest()
        return int.from_bytes(digest[:8], "big") / 2**64
