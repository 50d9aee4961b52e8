"""Reads WebDataset archives: tar files in which the files of one sample follow each other and have the same name.

Nothing is extracted to disk, so the names in an archive cannot lead anywhere. An archive is read once from its start to
its end, without seeking back.
"""

import bz2
import gzip
import io
import lzma
import tarfile
import zlib
from collections.abc import Iterator
from typing import Any, BinaryIO, cast

from common.errors import InvalidArgument
from deepseek.data.rejected import Rejected
from deepseek.interchange.joined import LABEL, columns
from deepseek.interchange.source import MAX_FILE_BYTES, Blob, Declared, Hint, Row, Source
from deepseek.interchange.tables import row_of
from deepseek.interchange.tree import Tree, is_hidden

EXTENSIONS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_OPENERS: dict[str, Any] = {"gz": gzip.open, "tgz": gzip.open, "bz2": bz2.open, "xz": lzma.open}
_ERRORS = (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, OSError, ValueError)
_MAX_SAMPLE_BYTES = 2 * MAX_FILE_BYTES


class WebDatasetSource(Source):
    """A tar file, possibly compressed.

    Args:
        tree: Tree that contains the file.
        path: Path of the file in the tree.
        split: Split of the rows; empty if the file states none.
        declared: What an export has declared about the columns.
    """

    def __init__(self, tree: Tree, path: str, *, split: str = "", declared: Declared | None = None) -> None:
        self._tree, self._path, self._split = tree, path, split
        self._declared = declared or Declared()

    def declared(self) -> Declared:
        return Declared({LABEL: Hint("label")}, self._declared.fields, self._declared.notices)

    def rows(self) -> Iterator[Row | Rejected]:
        with self._tree.open(self._path) as raw:
            opener = _OPENERS.get(self._path.rpartition(".")[2].lower())
            stream = _Forward(opener(raw) if opener else raw)
            last = ""
            try:
                with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r:", errorlevel=2) as archive:
                    for key, parts in _groups(archive):
                        last = key
                        yield self._row(key, parts) if parts else self._link(key)
                problem = "" if stream.ended else "the end of the archive is missing"
            except _ERRORS as error:
                problem = str(error) or type(error).__name__
            if problem:
                after = f" after {last!r}" if last else ""
                message = f"{self._path} cannot be read to its end{after}: {problem[:200]}; write the archive again"
                yield Rejected("", self._path, "TRUNCATED_ARCHIVE", message)

    def _row(self, key: str, parts: list[tuple[str, Blob]]) -> Row | Rejected:
        place = f"{self._path}/{key}"
        try:
            values = dict(columns(parts))
        except InvalidArgument as error:
            return Row(key, place, self._split, dict(parts)).rejected(error)
        values.setdefault("_key", key)
        return row_of(place, self._split, values)

    def _link(self, name: str) -> Rejected:
        place = f"{self._path}/{name}"
        message = f"{place} is a link; write the archive again without links, e.g. with tar --hard-dereference"
        return Rejected(name, place, "BAD_FILE_NAME", message, split=self._split)


def _groups(archive: tarfile.TarFile) -> Iterator[tuple[str, list[tuple[str, Blob]]]]:
    """Yields the key and the files of each sample, and the name and no files for each link."""
    key, parts, size = "", list[tuple[str, Blob]](), 0
    for member in archive:
        archive.members = []  # type: ignore[attr-defined]  # otherwise, the archive keeps every member in memory
        folder, _, name = member.name.rpartition("/")
        if not name or is_hidden(name):
            continue
        if member.islnk() or member.issym():
            yield member.name, []
        if not member.isfile():
            continue
        stem, _, extension = name.partition(".")
        new = f"{folder}/{stem}" if folder else stem
        if parts and new != key:
            yield key, parts
            parts, size = [], 0
        key = new
        size += member.size
        # A file that is too large is skipped; reading its blob raises an error that says so.
        kept = member.size <= MAX_FILE_BYTES and size <= _MAX_SAMPLE_BYTES
        file = archive.extractfile(member) if kept else None
        data = file.read() if file else b""
        if file and len(data) != member.size:
            raise tarfile.ReadError(f"{member.name} is truncated")
        parts.append(
            (extension, Blob(member.name, member.size if kept else max(size, MAX_FILE_BYTES + 1), _constant(data)))
        )
    if parts:
        yield key, parts


def _constant(data: bytes) -> Any:
    return lambda: data


class _Forward(io.RawIOBase):
    """A stream that tarfile can read without seeking back, and that notices whether the archive is complete.

    Args:
        stream: The content of the archive.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._position = 0
        self._last = b""

    @property
    def ended(self) -> bool:
        """Whether the last block that was read is empty, as at the end of every complete archive."""
        return len(self._last) == tarfile.BLOCKSIZE and not any(self._last)

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= _MAX_SAMPLE_BYTES:
            raise tarfile.ReadError("a header is too large")
        self._last = self._stream.read(size)
        self._position += len(self._last)
        return self._last

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0) -> int:
        while self._position < offset and self.read(min(1 << 20, offset - self._position)):
            pass
        return self._position

    def seekable(self) -> bool:
        return True
