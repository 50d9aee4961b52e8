"""The audit log: the caller, method, resource and outcome of calls, in a hash chain that reveals tampering.

A record is one line (`common.telemetry.audit_records`). It is on disk before the response to its call is sent. The head
of the chain is also kept outside the file, in the anchor (`common.telemetry.anchors`, docs/decisions/0008), so that
truncating or rewriting the log does not go unnoticed. A service continues from the file or the anchor, whichever is
ahead. If they contradict each other, the service logs an error and continues from the anchor; `audit_verify` then
finds the break. Several processes may write to one log: each reads the others' records under a lock on the file.
"""

import contextlib
import fcntl
import logging
import os
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from common.errors import MeshError, Unavailable
from common.files import disk_error, sync_folder
from common.telemetry.audit_records import EMPTY, Head, read_record, record_hash, record_line

ANCHOR_INTERVAL_S = 1.0
"""Minimum interval in seconds between two updates of the anchor. After a longer pause, it is updated immediately."""

_LONGEST_LINE_BYTES = 1 << 20
_READ_BYTES = 16 << 20

_logger = logging.getLogger(__name__)


class Anchor(Protocol):
    """Storage for the head of one log, outside the log. Thread-safe; any number of processes may share one anchor."""

    def read(self) -> Head | None:
        """Returns the stored head; None if none has been stored yet.

        Raises:
            MeshError: The head cannot currently be read.
        """

    def write(self, head: Head) -> None:
        """Stores a head, unless a later one is already stored.

        Raises:
            MeshError: The head cannot currently be written.
        """


class AuditLog:
    """One service's log, open for writing. Thread-safe; `close` anchors the head.

    Args:
        path: File of the log. A missing folder is created.
        service: Name of the service, which is the subject of records about repairs.
        anchor: Storage of the head outside the log.

    Raises:
        MeshError: The file or the anchor cannot be used.
    """

    def __init__(self, path: Path, service: str, anchor: Anchor) -> None:
        self._path = path
        self._service = service
        self._anchor = anchor
        self._lock = threading.Lock()
        self._appended, self._closing = threading.Event(), threading.Event()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
            sync_folder(path.parent)  # a new file must survive a power cut
        except OSError as error:
            raise disk_error(error, path, "the audit log") from error
        with self._exclusive():
            self._anchored = anchor.read()
            self._head = self._anchored or EMPTY
            if self._anchored is None:
                if os.fstat(self._file).st_size:
                    self._report_tampering("it has records but no anchor")
                # Written before the first record, so a log that has records but no anchor always comes from elsewhere.
                anchor.write(self._head)
                self._anchored = self._head
            elif not self._holds_head():
                self._report_tampering("the anchored record is not at its position")
            self._catch_up()
        self._appended.set()
        self._anchor_thread = threading.Thread(target=self._anchor_periodically, name="audit-anchor", daemon=True)
        self._anchor_thread.start()

    @property
    def head(self) -> Head:
        """Head of the log: the last record that this process has read or written."""
        return self._head

    def append(
        self,
        *,
        tenant: str,
        subject: str,
        method: str,
        resource: str = "",
        sha256: str = "",
        code: str = "OK",
        reason: str = "",
        trace_id: str = "",
    ) -> None:
        """Appends a record durably.

        Args:
            tenant: Tenant of the caller; empty if the caller is not authenticated.
            subject: Subject of the caller; empty if the caller is not authenticated.
            method: Path of the method, `/<service>/<method>`.
            resource: Name of the resource; empty if the call has none.
            sha256: Digest of the resource, as the response states it; empty if it states none.
            code: Name of the status code.
            reason: Reason of the error; empty if the call succeeded.
            trace_id: Id of the call's trace.

        Raises:
            MeshError: DISK_FULL, DISK_READ_ONLY, DISK_UNAVAILABLE or SERVER_STOPPING; nothing was written.
        """
        with self._exclusive():
            self._catch_up()
            self._write(tenant, subject, method, resource, code, reason, trace_id, sha256)
        self._appended.set()

    def close(self) -> None:
        """Anchors the head and closes the file. Idempotent."""
        if self._closing.is_set():
            return
        with self._lock:
            self._closing.set()
        self._appended.set()
        self._anchor_thread.join()
        self._anchor_head()
        os.close(self._file)

    @contextlib.contextmanager
    def _exclusive(self) -> Iterator[None]:
        try:
            with self._lock:
                if self._closing.is_set():
                    raise Unavailable("SERVER_STOPPING", "the service is stopping; try again", retry_delay_s=1)
                fcntl.flock(self._file, fcntl.LOCK_EX)
                try:
                    yield
                finally:
                    fcntl.flock(self._file, fcntl.LOCK_UN)
        except OSError as error:
            raise disk_error(error, self._path, "the audit log") from error

    def _holds_head(self) -> bool:
        """Returns whether the file still contains the known head's record, at the position that the head states."""
        if self._head.sequence == 0:
            return True
        size_bytes = self._head.size_bytes
        start = max(0, size_bytes - _LONGEST_LINE_BYTES)
        before = os.pread(self._file, size_bytes - start, start)
        record = read_record(before.removesuffix(b"\n").rpartition(b"\n")[2]) if before.endswith(b"\n") else None
        return record is not None and (record["seq"], record["hash"]) == (self._head.sequence, self._head.hash)

    def _catch_up(self) -> None:
        """Reads the records of other processes, and removes an incomplete line left by a process that was killed."""
        size_bytes = os.fstat(self._file).st_size
        if size_bytes == self._head.size_bytes:
            return
        if size_bytes < self._head.size_bytes:
            self._report_tampering("the file is shorter than it was")
            return
        torn = 0
        while not torn and self._head.size_bytes < size_bytes:
            # Read in pieces, because the rest may not fit into memory, and one read returns at most 2 GiB.
            length = min(size_bytes - self._head.size_bytes, _READ_BYTES)
            news = os.pread(self._file, length, self._head.size_bytes)
            whole, newline, _ = news.rpartition(b"\n")
            if not newline and self._head.size_bytes + len(news) < size_bytes:
                self._report_tampering("a line is longer than any record")
                return
            for line in whole.split(b"\n") if newline else ():
                record = read_record(line)
                if record is None or (record["seq"], record["prev"]) != (self._head.sequence + 1, self._head.hash):
                    self._report_tampering("a line does not follow the one before it")
                    return
                self._head = Head(record["seq"], record["hash"], self._head.size_bytes + len(line) + 1)
            torn = 0 if newline else len(news)
        if torn:
            os.ftruncate(self._file, self._head.size_bytes)
            _logger.warning("%s ended in the middle of a line: %d bytes removed", self._path, torn)
            self._write("", self._service, "audit.repair", f"{torn} bytes of a torn line", "OK", "TORN_LINE", "")

    def _report_tampering(self, why: str) -> None:
        """Logs an error. The next record continues the hash chain from the known head, so that `verify` fails."""
        _logger.error("%s was modified from outside: %s", self._path, why, extra={"reason": "AUDIT_LOG_CHANGED"})
        size_bytes = os.fstat(self._file).st_size
        if size_bytes and os.pread(self._file, 1, size_bytes - 1) != b"\n":
            size_bytes += os.write(self._file, b"\n")
        self._head = Head(self._head.sequence, self._head.hash, size_bytes)

    def _write(
        self,
        tenant: str,
        subject: str,
        method: str,
        resource: str,
        code: str,
        reason: str,
        trace_id: str,
        sha256: str = "",
    ) -> None:
        record: dict[str, Any] = {
            "time": datetime.now(UTC).isoformat(timespec="microseconds"),
            "who": {"tenant": tenant, "subject": subject},
            "what": method,
            "object": resource,
            "outcome": {"code": code, "reason": reason},
            "trace_id": trace_id,
            "seq": self._head.sequence + 1,
            "prev": self._head.hash,
        }
        if sha256:
            record["sha256"] = sha256
        record["hash"] = record_hash(record)
        line = record_line(record) + b"\n"
        try:
            written = os.write(self._file, line)
            if written < len(line):
                os.write(self._file, line[written:])
            os.fdatasync(self._file)
        except OSError:
            os.ftruncate(self._file, self._head.size_bytes)
            raise
        self._head = Head(self._head.sequence + 1, str(record["hash"]), self._head.size_bytes + len(line))

    def _anchor_periodically(self) -> None:
        while not self._closing.is_set():
            self._appended.wait()
            self._appended.clear()
            self._anchor_head()
            self._closing.wait(ANCHOR_INTERVAL_S)

    def _anchor_head(self) -> None:
        head = self._head
        if head == self._anchored:
            return
        try:
            self._anchor.write(head)
        except MeshError as error:
            _logger.warning("cannot anchor the head of the audit log: %s", error, extra={"reason": error.reason})
            self._appended.set()
        else:
            self._anchored = head
