"""State files: the rows of a service and what they refer to, in a form that is no engine's and no release's own.

The format is `deepseek.upkeep.v1.StatePart`, one after the other, closed by a checksum, so that a file which was cut
off or changed is never taken for whole. Reading one takes neither a database nor SQLAlchemy.
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
    """A file whose bytes are hashed as they pass."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self._file.write(data)

    def read(self, size: int) -> bytes:
        # In pieces, since whoever damaged a file may have written any size, and a file makes room for what it is asked.
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
        file: Open for writing, and buffered.
        parts: All but the end: a header, references, rows.
    """
    hashed, num_rows = _Hashed(file), 0
    for part in parts:
        num_rows += len(part.rows.rows)
        proto.serialize_length_prefixed(part, hashed)  # type: ignore[arg-type]  # it writes, and that is all
    end = upkeep_pb2.StateEnd(sha256=hashed.digest.digest(), num_rows=num_rows)
    proto.serialize_length_prefixed(upkeep_pb2.StatePart(end=end), hashed)  # type: ignore[arg-type]


def read(file: BinaryIO) -> Iterator[upkeep_pb2.StatePart]:
    """Yields the parts of a state file, the header first, without the end. Whole is what could be read to its end.

    Args:
        file: Open for reading, and buffered.

    Raises:
        DataLoss: STATE_DAMAGED if it is cut off, changed, or not a state file at all.
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
            raise _damaged("it is cut off")
        if (kind == "header") is not first:
            raise _damaged("it does not begin with its one header")
        if kind == "end":
            if (part.end.sha256, part.end.num_rows) != (before.digest(), num_rows) or file.read(1):
                raise _damaged("its checksum is another")
            return
        first = False
        num_rows += len(part.rows.rows)
        yield part


def _damaged(why: str) -> DataLoss:
    return DataLoss("STATE_DAMAGED", f"this is not a whole state file: {why}; take another backup")
