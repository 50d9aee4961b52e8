"""Summaries of the samples of an import, in a temporary file. Only ingest finds out which samples are valid."""

import pickle
import tempfile
from collections.abc import Iterator

from deepseek.data.statistics import Summary

_MEMORY_BYTES = 1 << 20

Record = tuple[Summary, bytes] | None
"""Summary and content digest of a sample; None for a sample that the client itself rejected."""


class Summaries:
    """A list that is stored on disk if it is long. The unnamed file is deleted with this object. Not thread-safe."""

    def __init__(self) -> None:
        self._file = tempfile.SpooledTemporaryFile(_MEMORY_BYTES)  # noqa: SIM115
        self._num_records = 0

    def add(self, record: Record) -> None:
        """Appends a record."""
        pickle.dump(record, self._file, pickle.HIGHEST_PROTOCOL)
        self._num_records += 1

    def __iter__(self) -> Iterator[Record]:
        """Yields the records. No records may be added afterwards."""
        self._file.seek(0)
        for _ in range(self._num_records):
            yield pickle.load(self._file)

    def __del__(self) -> None:
        self._file.close()
