"""Records of the audit log. Each record is one line of canonical JSON.

A record contains the time, the caller (tenant and subject), the method, the resource and its digest if the response
states one, the outcome (code and reason), the trace, a sequence number, the hash of the previous record, and a hash
over all of these fields.
"""

import hashlib
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Head:
    """The head of a log: its last record.

    Attributes:
        sequence: Number of the record, starting at 1; 0 for an empty log.
        hash: SHA-256 of the record, in hexadecimal.
        size_bytes: Size of the file up to the end of the record.
    """

    sequence: int
    hash: str
    size_bytes: int


EMPTY = Head(0, "0" * 64, 0)


def record_hash(record: dict[str, Any]) -> str:
    """Returns the SHA-256 of a record's canonical JSON without its member `hash`."""
    return hashlib.sha256(record_line({name: value for name, value in record.items() if name != "hash"})).hexdigest()


def read_record(line: bytes) -> dict[str, Any] | None:
    """Returns the record in a line; None if the line is not exactly as a service would write it."""
    try:
        record = json.loads(line)
        whole = isinstance(record, dict) and isinstance(record["seq"], int) and record_line(record) == line
        return record if whole and record["hash"] == record_hash(record) else None
    except (ValueError, KeyError, RecursionError):  # RecursionError: deeply nested
        return None


def record_line(record: dict[str, Any]) -> bytes:
    """Returns the line of a record, without the newline."""
    return json.dumps(record, ensure_ascii=True, sort_keys=True, separators=(",", ":")).encode()
