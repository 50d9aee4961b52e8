"""Stores heads of audit logs in the service's database, beyond the reach of an attacker who can change only the log."""

import socket
from pathlib import Path

from sqlalchemy import inspect
from sqlalchemy.orm import Mapped, mapped_column

from common.database import Base, Database
from common.telemetry.audit_records import Head


class AuditAnchorRow(Base):
    """A row with the head of one log. It belongs to the service, not to a tenant."""

    __tablename__ = "audit_anchors"

    log: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int]
    hash: Mapped[str]
    size_bytes: Mapped[int]


class DatabaseAnchor:
    """An `Anchor` in the service's database.

    Args:
        database: Database of the service, which must be migrated before the first write.
        path: File of the log. A SQLite database has one anchor, which stays valid if the log is moved. A PostgreSQL
            database, which replicas on several hosts may share, has one anchor per host and path.
    """

    def __init__(self, database: Database, path: Path) -> None:
        self._database = database
        self._log = "" if database.is_file else f"{socket.gethostname()}:{path}"

    def read(self) -> Head | None:
        """See `Anchor.read`."""
        with self._database.snapshot() as session:
            if not inspect(session.connection()).has_table(AuditAnchorRow.__tablename__):
                return None  # no service has used this database with an audit log yet
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
