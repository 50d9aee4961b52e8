"""The audit log: who did what to which object, and how it ended; a chain of hashes that shows what was changed.

A record is one line of JSON: time, who (tenant and subject), what (the method), the object, the outcome (code and
reason), the trace, its number, and the hash of the record before it, all of it hashed. A line is on disk before its
call is answered. So that nobody can cut the end off, or write the whole chain anew, its head is kept outside the file
as well, the anchor (`common.telemetry.anchors`, docs/decisions/0008).

A service goes on from whichever of file and anchor is ahead. If they do not fit together it says so in its log, goes on
from the anchor, and leaves the break where it is, for `verify` to find.

Several processes may write to one log: each catches up, under a lock on the file, with what the others have written.
"""

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from common.artifacts.store import disk_error
from common.errors import MeshError, Unavailable

ANCHOR_INTERVAL_S = 1.0
"""The head is anchored at most this often; the first record after a pause is anchored at once."""

_LONGEST_LINE_BYTES = 1 << 20
_READ_BYTES = 16 << 20

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Head:
    """The last record of a log.

    Attributes:
        sequence: Its number; the first is 1, and 0 stands for an empty log.
        hash: Its SHA-256, hexadecimal.
        size_bytes: How long the file was with it.
    """

    sequence: int
    hash: str
    size_bytes: int


EMPTY = Head(0, "0" * 64, 0)


class Anchor(Protocol):
    """Where the head of one log is kept, outside the log. Thread-safe; any number of processes share one."""

    def read(self) -> Head | None:
        """Returns the head, None if there was none yet.

        Raises:
            MeshError: It cannot be read now.
        """

    def write(self, head: Head) -> None:
        """Keeps a head, unless a later one is kept already.

        Raises:
            MeshError: It cannot be written now.
        """


def record_hash(record: dict[str, Any]) -> str:
    """The SHA-256 of a record's canonical JSON, its own `hash` left out."""
    return hashlib.sha256(_line({name: value for name, value in record.items() if name != "hash"})).hexdigest()


def read_record(line: bytes) -> dict[str, Any] | None:
    """The record of a line; None if the line is not one as a service writes it."""
    try:
        record = json.loads(line)
        whole = isinstance(record, dict) and isinstance(record["seq"], int) and _line(record) == line
        return record if whole and record["hash"] == record_hash(record) else None
    except (ValueError, KeyError, RecursionError):  # the last if it is nested deeply
        return None


class AuditLog:
    """One service's log, open for writing. Thread-safe; `close` anchors the head.

    Args:
        path: The file; its folder is made if it is missing.
        service: The service's name, for what it records of itself.
        anchor: Where the head is kept.

    Raises:
        MeshError: The file or the anchor cannot be used.
    """

    def __init__(self, path: Path, service: str, anchor: Anchor) -> None:
        self._path = path
        self._service = service
        self._anchor = anchor
        self._lock = threading.Lock()
        self._news, self._closing = threading.Event(), threading.Event()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            _sync(path.parent)  # so that a file that was just made is there after a power cut
        except OSError as error:
            raise disk_error(error, path, "the audit log") from error
        with self._exclusive():
            self._anchored = anchor.read()
            self._head = self._anchored or EMPTY
            if self._anchored is None:
                if os.fstat(self._file).st_size:
                    self._distrust("it holds records, and there is no anchor of them")
                # Before the first record, so that a log without an anchor is one that somebody else put there.
                anchor.write(self._head)
                self._anchored = self._head
            elif not self._holds_head():
                self._distrust("the record that the anchor knows is not where it was")
            self._catch_up()
        self._news.set()
        self._anchoring = threading.Thread(target=self._keep_anchored, name="audit-anchor", daemon=True)
        self._anchoring.start()

    @property
    def head(self) -> Head:
        """The last record that this process knows of."""
        return self._head

    def append(
        self,
        *,
        tenant: str,
        subject: str,
        method: str,
        resource: str = "",
        code: str = "OK",
        reason: str = "",
        trace_id: str = "",
    ) -> None:
        """Writes a record; it is on disk afterwards.

        Args:
            tenant: Whose data the caller sees; empty if nobody knows who calls.
            subject: Who calls; empty likewise.
            method: What was called, `/<service>/<method>`.
            resource: Name of what it was called for; empty where there is none.
            code: Name of the status code.
            reason: Reason of the error; empty if there was none.
            trace_id: The trace that the call is a part of.

        Raises:
            MeshError: DISK_FULL, DISK_READ_ONLY, DISK_UNAVAILABLE or SERVER_STOPPING; nothing was written.
        """
        with self._exclusive():
            self._catch_up()
            self._write(tenant, subject, method, resource, code, reason, trace_id)
        self._news.set()

    def close(self) -> None:
        """Anchors the head and closes the file. Idempotent."""
        if self._closing.is_set():
            return
        with self._lock:
            self._closing.set()
        self._news.set()
        self._anchoring.join()
        self._keep_head()
        os.close(self._file)

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        try:
            with self._lock:
                if self._closing.is_set():
                    raise Unavailable("SERVER_STOPPING", "the service is stopping; call again", retry_delay_s=1)
                fcntl.flock(self._file, fcntl.LOCK_EX)
                try:
                    yield
                finally:
                    fcntl.flock(self._file, fcntl.LOCK_UN)
        except OSError as error:
            raise disk_error(error, self._path, "the audit log") from error

    def _holds_head(self) -> bool:
        """Whether the file has the head where it should be."""
        if self._head.sequence == 0:
            return True
        size_bytes = self._head.size_bytes
        start = max(0, size_bytes - _LONGEST_LINE_BYTES)
        before = os.pread(self._file, size_bytes - start, start)
        record = read_record(before.removesuffix(b"\n").rpartition(b"\n")[2]) if before.endswith(b"\n") else None
        return record is not None and (record["seq"], record["hash"]) == (self._head.sequence, self._head.hash)

    def _catch_up(self) -> None:
        """Follows what others have written since, and repairs the line that one of them died in."""
        size_bytes = os.fstat(self._file).st_size
        if size_bytes == self._head.size_bytes:
            return
        if size_bytes < self._head.size_bytes:
            self._distrust("the file is shorter than it was")
            return
        torn = 0
        while not torn and self._head.size_bytes < size_bytes:
            # In pieces: there may be more than memory holds, and one read ends after 2 GiB.
            length = min(size_bytes - self._head.size_bytes, _READ_BYTES)
            news = os.pread(self._file, length, self._head.size_bytes)
            whole, newline, _ = news.rpartition(b"\n")
            if not newline and self._head.size_bytes + len(news) < size_bytes:
                self._distrust("a line is longer than any record")
                return
            for line in whole.split(b"\n") if newline else ():
                record = read_record(line)
                if record is None or (record["seq"], record["prev"]) != (self._head.sequence + 1, self._head.hash):
                    self._distrust("a line does not follow the one before it")
                    return
                self._head = Head(record["seq"], record["hash"], self._head.size_bytes + len(line) + 1)
            torn = 0 if newline else len(news)
        if torn:
            os.ftruncate(self._file, self._head.size_bytes)
            _log.warning("%s ended in the middle of a line: %d bytes removed", self._path, torn)
            self._write("", self._service, "audit.repair", f"{torn} bytes of a torn line", "OK", "TORN_LINE", "")

    def _distrust(self, why: str) -> None:
        """Goes on behind everything that is there, from the head that is known: the break stays to be found."""
        _log.error("%s was changed by somebody else: %s", self._path, why, extra={"reason": "AUDIT_LOG_CHANGED"})
        size_bytes = os.fstat(self._file).st_size
        if size_bytes and os.pread(self._file, 1, size_bytes - 1) != b"\n":
            size_bytes += os.write(self._file, b"\n")
        self._head = Head(self._head.sequence, self._head.hash, size_bytes)

    def _write(
        self, tenant: str, subject: str, method: str, resource: str, code: str, reason: str, trace_id: str
    ) -> None:
        record = {
            "time": datetime.now(UTC).isoformat(timespec="microseconds"),
            "who": {"tenant": tenant, "subject": subject},
            "what": method,
            "object": resource,
            "outcome": {"code": code, "reason": reason},
            "trace_id": trace_id,
            "seq": self._head.sequence + 1,
            "prev": self._head.hash,
        }
        record["hash"] = record_hash(record)
        line = _line(record) + b"\n"
        try:
            written = os.write(self._file, line)
            if written < len(line):
                os.write(self._file, line[written:])
            os.fdatasync(self._file)
        except OSError:
            os.ftruncate(self._file, self._head.size_bytes)
            raise
        self._head = Head(self._head.sequence + 1, str(record["hash"]), self._head.size_bytes + len(line))

    def _keep_anchored(self) -> None:
        while not self._closing.is_set():
            self._news.wait()
            self._news.clear()
            self._keep_head()
            self._closing.wait(ANCHOR_INTERVAL_S)

    def _keep_head(self) -> None:
        head = self._head
        if head == self._anchored:
            return
        try:
            self._anchor.write(head)
        except MeshError as error:
            _log.warning("the head of the audit log could not be anchored: %s", error, extra={"reason": error.reason})
            self._news.set()
        else:
            self._anchored = head


@dataclass(frozen=True)
class Finding:
    """Something wrong with a log.

    Attributes:
        line: Number of the line, from 1; one more than there are if the end is missing.
        problem: What is wrong, for people.
    """

    line: int
    problem: str


@dataclass(frozen=True)
class Verification:
    """What `verify` found.

    Attributes:
        num_records: How many whole records there are.
        findings: What is wrong; empty if nothing is.
    """

    num_records: int
    findings: tuple[Finding, ...]


def verify(path: Path, head: Head) -> Verification:
    """Checks every line of a log, and the log against its head; a service may go on writing meanwhile.

    Args:
        path: The file.
        head: As the service that writes it knows it, asked for before this is called.

    Raises:
        MeshError: The file cannot be read.
    """
    findings: list[Finding] = []
    num_records = line_number = last = 0
    previous: str | None = EMPTY.hash  # None after a line that tells nothing
    try:
        with path.open("rb") as file:
            for line_number, line in enumerate(file, 1):
                if not line.endswith(b"\n"):
                    line_number -= 1  # being written, or to be repaired; if it was whole once, the head tells
                    break
                record = read_record(line[:-1])
                if record is None:
                    findings.append(Finding(line_number, "was changed: it is not the record that was written"))
                    previous = None
                    continue
                sequence = record["seq"]
                if previous is not None and sequence > last + 1:
                    findings.append(Finding(line_number, f"{_records(last + 1, sequence - 1)} missing before it"))
                elif previous is not None and (record["prev"], sequence) != (previous, last + 1):
                    findings.append(Finding(line_number, "does not follow the line before it: one of the two is new"))
                if sequence == head.sequence and record["hash"] != head.hash:
                    findings.append(Finding(line_number, "is not what its anchor says: the log was written anew"))
                num_records, last, previous = num_records + 1, sequence, record["hash"]
    except FileNotFoundError:
        pass  # a log that nobody has written to yet, unless the head knows better
    except OSError as error:
        raise disk_error(error, path, "the audit log") from error
    if last < head.sequence and previous is not None:
        findings.append(Finding(line_number + 1, f"{_records(last + 1, head.sequence)} missing at the end"))
    return Verification(num_records, tuple(findings))


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _records(first: int, last: int) -> str:
    return f"record {first} is" if first == last else f"records {first} to {last} are"


def _line(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=True, sort_keys=True, separators=(",", ":")).encode()
