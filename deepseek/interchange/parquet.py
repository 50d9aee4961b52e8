"""Reads Parquet files, including those of Hugging Face data sets.

Such files hold images and sounds as structs {bytes, path}, and name the classes of a column in their schema metadata.
"""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from common.errors import InvalidArgument
from deepseek.data.rejected import Rejected
from deepseek.interchange.packages import require
from deepseek.interchange.source import Blob, Declared, Hint, Row, Source
from deepseek.interchange.tables import plain, row_of
from deepseek.interchange.tree import Tree

_BATCH_ROWS = 64
_FEATURE_TYPES = {"Image": "image", "Audio": "audio", "ClassLabel": "label"}


class ParquetSource(Source):
    """A Parquet file.

    Args:
        tree: Tree that contains the file, and the files that its columns name.
        path: Path of the file in the tree.
        split: Split of the rows; empty if the file states none.
        declared: What an export has declared about the columns.
    """

    def __init__(self, tree: Tree, path: str, *, split: str = "", declared: Declared | None = None) -> None:
        self._tree, self._path, self._split = tree, path, split
        self._own = declared

    def declared(self) -> Declared:
        with self._tree.open(self._path) as file:
            schema = self._opened(file).schema_arrow
        types = require("pyarrow", "Parquet files").types
        hints = {column.name: Hint("bytes") for column in schema if types.is_fixed_size_binary(column.type)}
        hints |= _features(schema.metadata or {})
        own = self._own or Declared()
        return Declared(hints, own.fields, own.notices)

    def file(self, name: str) -> Blob:
        return self._tree.file(name)

    def rows(self) -> Iterator[Row | Rejected]:
        arrow = require("pyarrow", "Parquet files")
        with self._tree.open(self._path) as file:
            number = 0
            try:
                for batch in self._opened(file).iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
                    for row in _unpacked(batch):
                        number += 1
                        place = f"{self._path}:{number}"
                        if isinstance(row, UnicodeDecodeError):
                            message = f"{place} is not valid UTF-8: {row}"
                            yield Rejected(place, place, "BAD_TEXT", message, split=self._split)
                        elif isinstance(row, Exception):
                            message = f"{place} holds a value that cannot be read: {str(row)[:200]}"
                            yield Rejected(place, place, "BAD_VALUE", message, split=self._split)
                        else:
                            values = {name: _value(value, f"{place} {name}") for name, value in row.items()}
                            yield row_of(place, self._split, values)
            except (arrow.ArrowException, OSError) as error:
                place = f"{self._path}:{number + 1}"
                message = f"{place} and the rows after it cannot be read: {str(error)[:200]}"
                yield Rejected("", place, "DAMAGED_FILE", message)

    def _opened(self, file: Any) -> Any:
        arrow, parquet = (require(name, "Parquet files") for name in ("pyarrow", "pyarrow.parquet"))
        try:
            return parquet.ParquetFile(file, pre_buffer=False)
        except (arrow.ArrowException, OSError) as error:
            message = f"{self._path} is not a complete Parquet file: {str(error)[:200]}"
            raise InvalidArgument("BAD_SOURCE", message, field="source") from error


def _unpacked(batch: Any) -> Iterator[dict[str, Any] | Exception]:
    """Yields the rows of a batch; instead of a row that Python cannot represent, the error.

    Such a row holds text that is not UTF-8, or a time in nanoseconds or after the year 9999.
    """
    try:
        yield from batch.to_pylist()
        return
    except (ValueError, OverflowError):
        pass
    for index in range(batch.num_rows):
        try:
            yield from batch.slice(index, 1).to_pylist()
        except (ValueError, OverflowError) as error:
            yield error


def _value(value: Any, name: str) -> Any:
    if isinstance(value, dict) and set(value) == {"bytes", "path"}:
        return _blob(value, name)
    if isinstance(value, list):
        return [_value(one, name) for one in value]
    return plain(value)


def _blob(value: Mapping[str, Any], name: str) -> Any:
    """Returns a file that is stored in a row, or the path of a file beside the table."""
    data = value["bytes"]
    if data is None:
        return value["path"]
    path = value["path"] or ""
    return Blob(path or name, len(data), lambda: data)


def _features(metadata: Mapping[bytes, bytes]) -> dict[str, Hint]:
    """Returns the hints in the schema metadata of a Hugging Face data set."""
    try:
        features = json.loads(metadata.get(b"huggingface", b"{}"))["info"]["features"]
        found = {}
        for name, feature in features.items():
            feature = feature[0] if isinstance(feature, list) else feature
            feature = feature.get("feature", feature)
            labels = tuple(map(str, feature.get("names") or ()))
            if kind := _FEATURE_TYPES.get(str(feature.get("_type")), ""):
                found[name] = Hint(kind, labels)
        return found
    except (ValueError, KeyError, TypeError, AttributeError, IndexError):
        return {}
