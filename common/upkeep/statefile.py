"""State files: a service's rows and the artifacts they reference, independent of database engine and release.

A state file is a sequence of `deepseek.upkeep.v1.StatePart` messages that ends with a checksum, so that truncation and
changes are always detected. Reading a file requires neither a database nor SQLAlchemy.
"""

import hashlib
from collections.abc import Iterable, Iterator
from typing import BinaryIO

from google.protobuf import proto
from google.protobuf.message import DecodeError

from common.errors import DataLoss
from protos.upkeep.v1 import upkeep_pb2

_PIECE_BYTES = 1 << 20


class _Hashed:
    """A wrapper around a file that hashes all bytes read or written through it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def read(self, size: int) -> bytes:
        # Read in pieces: a damaged file may claim any size, and `read` allocates as much as it is asked for.
        pieces = []
        while size > 0 and (piece := self._file.read(min(size, _PIECE_BYTES))):
            pieces.append(piece)
            size -= len(piece)
        data = b"".join(pieces)
        self.digest.update(data)
        return data


def write(file: BinaryIO, parts: Iterable[upkeep_pb2.StatePart]) -> None:
    """Writes a state file.

    Args:
        file: Buffered file, open for writing.
        parts: All parts except the final checksum: a header, references and rows.
    """
    hashed, num_rows = _Hashed(file), 0
    for part in parts:
        num_rows += len(part.rows.rows)
        proto.serialize_length_prefixed(part, hashed)  # type: ignore[arg-type]  # only `write` is used
    end = upkeep_pb2.StateEnd(sha256=hashed.digest.digest(), num_rows=num_rows)
    proto.serialize_length_prefixed(upkeep_pb2.StatePart(end=end), hashed)  # type: ignore[arg-type]


def read(file: BinaryIO) -> Iterator[upkeep_pb2.StatePart]:
    """Yields the parts of a state file, starting with the header, without the final checksum.

    The file is intact only if the iterator ends without an error.

    Args:
        file: Buffered file, open for reading.

    Raises:
        DataLoss: STATE_DAMAGED if the file is truncated, modified or not a state file at all.
    """
    hashed, num_rows, first = _Hashed(file), 0, True
    while True:
        before = hashed.digest.copy()
        try:
            part = proto.parse_length_prefixed(upkeep_pb2.StatePart, hashed)  # type: ignore[arg-type]  # as above
        except (DecodeError, ValueError) as error:
            raise _damaged(str(error)) from error
        kind = part.WhichOneof("part") if part else None
        if kind is None:
            raise _damaged("it is truncated")
        if (kind == "header") is not first:
            raise _damaged("it does not start with a header, or has a second one")
        if kind == "end":
            if (part.end.sha256, part.end.num_rows) != (before.digest(), num_rows) or file.read(1):
                raise _damaged("its checksum does not match")
            return
        first = False
        num_rows += len(part.rows.rows)
        yield part


def _damaged(why: str) -> DataLoss:
    return DataLoss("STATE_DAMAGED", f"the state file is damaged: {why}; use another backup")
