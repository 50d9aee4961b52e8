"""Heads of audit logs in the service's own database: out of reach of who can write to the log only."""

import socket
from pathlib import Path

from sqlalchemy import inspect
from sqlalchemy.orm import Mapped, mapped_column

from common.database import Base, Database
from common.telemetry.audit import Head


class AuditAnchorRow(Base):
    """The head of one log. It belongs to the service and not to a tenant."""

    __tablename__ = "audit_anchors"

    log: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int]
    hash: Mapped[str]
    size_bytes: Mapped[int]


class DatabaseAnchor:
    """Implements `common.telemetry.audit.Anchor`.

    Args:
        database: The service's database, migrated before anything is written.
        path: The log. A database of one home holds the anchor of one log, wherever the home is moved to; replicas on
            several hosts that share a database have one each.
    """

    def __init__(self, database: Database, path: Path) -> None:
        self._database = database
        self._log = "" if database.is_file else f"{socket.gethostname()}:{path}"

    def read(self) -> Head | None:
        """See `Anchor.read`."""
        with self._database.snapshot() as session:
            if not inspect(session.connection()).has_table(AuditAnchorRow.__tablename__):
                return None  # no service has run here since there is an audit log
            row = session.get(AuditAnchorRow, self._log)
            return Head(row.sequence, row.hash, row.size_bytes) if row else None

    def write(self, head: Head) -> None:
        """See `Anchor.write`."""
        with self._database.transaction() as session:
            row = session.get(AuditAnchorRow, self._log)
            if row is None or row.sequence < head.sequence:
                session.merge(
                    AuditAnchorRow(log=self._log, sequence=head.sequence, hash=head.hash, size_bytes=head.size_bytes)
                )
