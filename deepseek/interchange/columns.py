"""What the first pass over a source learns about each column: kinds of values, distinct values, missing values."""

import re
import unicodedata
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from common.errors import InvalidArgument
from deepseek.data.canonical_json import is_unicode
from deepseek.data.statistics import FieldStatistics
from deepseek.interchange.joined import file_kind
from deepseek.interchange.kinds import kind_of_content, kind_of_name
from deepseek.interchange.source import Blob

MAX_LABELS = 65_536
"""Maximum number of distinct values that are counted in a column."""

MISSING = frozenset({"", "na", "n/a", "nan", "null", "none", "?", "-"})
"""Cells of a column of numbers that mean a missing value, in lower case."""

MAX_CATEGORIES = 50
"""A column of short texts is categorical if it has 2 to this many distinct values, each in 10 rows on average."""

_MIN_ROWS_PER_CATEGORY = 10
_MAX_CATEGORY_CHARS = 64
_NUMERIC_SHARE = 0.95
_MIN_CELLS = 20
_INTEGER = re.compile(r"[+-]?(0|[1-9][0-9]*)")
_NUMBER = re.compile(r"[+-]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][+-]?[0-9]+)?")


def integer(text: str) -> int | None:
    """Returns the 64-bit integer that a cell holds; None if it holds none. `007` is not an integer but an identifier.

    >>> integer(" 12 "), integer("007"), integer("1.0")
    (12, None, None)
    """
    text = text.strip()
    if len(text) > 20 or not _INTEGER.fullmatch(text):
        return None
    return value if -(1 << 63) <= (value := int(text)) < 1 << 63 else None


def number(text: str) -> float | None:
    """Returns the number that a cell holds; None if it holds none.

    >>> number("1e3"), number("inf"), number("1,5")
    (1000.0, None, None)
    """
    text = text.strip()
    return float(text) if len(text) <= 64 and _NUMBER.fullmatch(text) else None


def label_text(value: Any) -> str:
    """Returns a value as the text of a label, in the normal form NFC.

    >>> label_text(3), label_text(3.0), label_text(True), label_text(" cat ")
    ('3', '3', 'true', 'cat')
    """
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return unicodedata.normalize("NFC", str(value).strip())


def in_label_order(labels: "Counter[str] | set[str]") -> tuple[str, ...]:
    """Returns labels in a stable order: by value if all are integers, otherwise by code point."""
    numbers = {label: integer(label) for label in labels}
    if all(found is not None for found in numbers.values()):
        return tuple(sorted(labels, key=lambda label: (numbers[label], label)))
    return tuple(sorted(labels))


@dataclass
class Column:
    """Statistics of one column.

    Attributes:
        is_typed: Whether text is text, see `Source.is_typed`.
        counts_labels: Whether the distinct values are needed.
        num_present: Number of rows that have a value.
        kinds: Number of values of each kind: `integer`, `number`, `text`, `bool`, `image`, `audio`, `bytes`, and
            `missing` for texts in MISSING.
        num_empty: Number of rows whose text is empty or blank.
        num_lists: Number of rows that have a list of values.
        num_paths: Number of texts that end like an image or audio file, by field type.
        labels: Distinct values as labels; None if there are more than MAX_LABELS.
        missing_labels: Distinct texts of the kind `missing` as labels.
        categories: Distinct values, as labels; None if there are too many or if one is not a short text.
        numbers: Statistics of the numbers; None if they are not needed.
    """

    is_typed: bool = True
    counts_labels: bool = False
    num_present: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    num_empty: int = 0
    num_lists: int = 0
    num_paths: Counter[str] = field(default_factory=Counter)
    labels: set[str] | None = field(default_factory=set)
    missing_labels: set[str] = field(default_factory=set)
    categories: set[str] | None = field(default_factory=set)
    numbers: FieldStatistics | None = None

    def add(self, value: Any) -> None:
        """Adds the value of a row."""
        if value is None:
            return
        self.num_present += 1
        self.num_empty += isinstance(value, str) and not value.strip()
        if isinstance(value, list):
            self.num_lists += 1
        for one in value if isinstance(value, list) else (value,):
            kind = self._kind(one)
            self.kinds[kind] += 1
            if self.numbers and kind in ("integer", "number"):
                self.numbers.add_number(float(one))
            if self.counts_labels and kind in ("integer", "number", "text", "bool", "missing"):
                self._add_label(label_text(one), kind)
            if kind != "missing":
                self._add_category(value)

    def _add_category(self, value: Any) -> None:
        if self.categories is None:
            return
        if isinstance(value, str) and len(value) <= _MAX_CATEGORY_CHARS and is_unicode(value) and value.strip():
            self.categories.add(label_text(value))
        else:
            self.categories = None
        if self.categories is not None and len(self.categories) > MAX_CATEGORIES:
            self.categories = None

    @property
    def is_categorical(self) -> bool:
        """Whether the values are few short texts, each of which occurs often."""
        num_texts = self.kinds["text"]
        found = len(self.categories) if self.categories is not None else 0
        return found >= 2 and found * _MIN_ROWS_PER_CATEGORY <= num_texts and not self.num_paths

    def _add_label(self, label: str, kind: str) -> None:
        if not label or not is_unicode(label):
            return
        if kind == "missing":
            self.missing_labels.add(label)
        elif self.labels is not None:
            self.labels.add(label)
            if len(self.labels) > MAX_LABELS:
                self.labels = None

    @property
    def is_numeric(self) -> bool:
        """Whether the values are numbers, except for a few."""
        numbers, texts = self.kinds["integer"] + self.kinds["number"], self.kinds["text"]
        whole = numbers + texts
        return bool(numbers) and (not texts or (whole >= _MIN_CELLS and numbers >= _NUMERIC_SHARE * whole))

    @property
    def classes(self) -> set[str] | None:
        """The labels; if the column is not numeric, with those that look like a missing value, e.g. `none` or `?`."""
        return self.labels if self.labels is None or self.is_numeric else self.labels | self.missing_labels

    def _kind(self, value: Any) -> str:
        match value:
            case bool():
                return "bool"
            case int():
                return "integer" if -(1 << 63) <= value < 1 << 63 else "text"
            case float():
                return "number"
            case bytes():
                return kind_of_content(value) or "bytes"
            case Blob():
                return _blob_kind(value)
            case str():
                return self._text_kind(value)
        return "missing"

    def _text_kind(self, text: str) -> str:
        if not self.is_typed:
            if integer(text) is not None:
                return "integer"
            if number(text) is not None:
                return "number"
            if text.strip().lower() in MISSING:
                return "missing"
        if (kind := kind_of_name(text)) in ("image", "audio"):
            self.num_paths[kind] += 1
        return "text"

    def type(self, *, is_target: bool = False) -> str:
        """Returns the field type that fits the values best; empty if the column holds no values.

        A column of numbers may contain a few other values, which then are rejected.
        """
        media = {kind: self.kinds[kind] for kind in ("image", "audio", "bytes") if self.kinds[kind]}
        if media:
            return max(media, key=lambda kind: media[kind])
        numbers, texts = self.kinds["integer"] + self.kinds["number"], self.kinds["text"]
        if texts and (path := self.num_paths.most_common(1)) and path[0][1] == texts and not numbers:
            return path[0][0]
        if self.is_numeric:
            if self.kinds["number"]:
                return "number"
            return "label" if is_target else "integer"
        if not numbers and not texts:
            return "label" if self.kinds["bool"] or (is_target and self.missing_labels) else ""
        return "label" if is_target else "text"


def _blob_kind(blob: Blob) -> str:
    try:
        return file_kind(blob)
    except InvalidArgument:
        return "bytes"
