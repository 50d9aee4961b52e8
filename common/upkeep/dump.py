"""Exports the tables of a service to a state file, and imports them.

The tables are discovered in the database itself. The anchor of the audit log is excluded, because it belongs to a log
file on this machine. Rows are exported in one snapshot and imported in one transaction, into empty tables only. To
import a file from an earlier release, the tables are created as they were in that release, filled, and then migrated.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any, BinaryIO

from sqlalchemy import Connection, MetaData, Table, func, insert, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from common.database import Database
from common.database.migration import VERSION_TABLE, known_revisions, revisions, upgrade
from common.errors import FailedPrecondition, InvalidArgument
from common.telemetry.anchors import AuditAnchorRow
from common.upkeep import statefile
from protos.upkeep.v1 import upkeep_pb2

_ANCHORS = AuditAnchorRow.__tablename__
_EXCLUDED_TABLES = frozenset({VERSION_TABLE, _ANCHORS})
_PART_BYTES = 1 << 18
_ROWS_PER_READ = 1000
_REFERENCES_PER_PART = 1000


@dataclass(frozen=True)
class Reference:
    """A reference from a row to an artifact.

    Attributes:
        tenant: Tenant that owns the artifact.
        sha256: Digest of the artifact.
        media_type: RFC 6838 media type, which shows whether the artifact is a manifest.
    """

    tenant: str
    sha256: str
    media_type: str


References = Callable[[Session], Iterable[Reference]]
"""A function that returns the artifacts to which a service's rows refer. It reads the rows from the given session."""


class State:
    """The state of one service: the rows of its tables. Thread-safe.

    Args:
        service: Name of the service.
        database: Migrated database of the service.
        migrations: Folder with the service's revisions.
        references: Function that returns the artifacts to which the service's rows refer.
    """

    def __init__(self, service: str, database: Database, migrations: Path, references: References) -> None:
        self.service = service
        self._database = database
        self._migrations = [migrations]
        self._references = references

    def num_rows(self) -> int:
        """Returns the number of rows in all tables."""
        with self._database.snapshot() as session:
            return _num_rows(session.connection())

    def revisions(self) -> list[str]:
        """Returns the current revision of each area."""
        with self._database.snapshot() as session:
            return revisions(session.connection())

    def known_revisions(self) -> list[str]:
        """Returns every revision known to this release. `load` accepts only state files with these revisions."""
        return known_revisions(self._migrations)

    def references(self) -> list[upkeep_pb2.StateReferences]:
        """Returns every artifact to which a row refers, in groups that each fit into one message."""
        with self._database.snapshot() as session:
            return self._grouped(session)

    def dump(self, file: BinaryIO) -> None:
        """Writes a state file with all rows, and their references, from one snapshot."""
        with self._database.snapshot() as session:
            statefile.write(file, self._parts(session))

    def load(self, file: BinaryIO) -> int:
        """Imports a state file, atomically.

        Args:
            file: State file, positioned at its start; it is read twice.

        Returns:
            The number of imported rows.

        Raises:
            DataLoss: STATE_DAMAGED.
            InvalidArgument: WRONG_SERVICE, BAD_STATE.
            FailedPrecondition: STATE_NOT_EMPTY, STATE_TOO_NEW.
        """
        header = self._check(file)
        file.seek(0)
        with self._database.transaction() as session:
            connection = session.connection()
            if _num_rows(connection):
                message = f"the database of {self.service} already has rows; restore into an unused mesh"
                raise FailedPrecondition("STATE_NOT_EMPTY", message)
            migrated = revisions(connection)
            anchors = connection.execute(select(*AuditAnchorRow.__table__.columns)).mappings().all()
            if migrated != list(header.revisions):
                _reflected(connection).drop_all(connection)
                upgrade(connection, self._migrations, header.revisions)
            tables = _tables(connection)
            for part in statefile.read(file):
                if part.WhichOneof("part") == "rows":
                    _insert(connection, tables, part.rows)
            if migrated != list(header.revisions):
                upgrade(connection, self._migrations)
                if anchors:
                    connection.execute(insert(AuditAnchorRow), list(map(dict, anchors)))
            return _num_rows(connection)

    def _check(self, file: BinaryIO) -> upkeep_pb2.StateHeader:
        """Verifies the whole file before any of it is used, and returns the header."""
        header = next(statefile.read(file)).header
        file.seek(0)
        for _ in statefile.read(file):
            pass
        if header.service != self.service:
            message = f"the file contains the state of {header.service}, but this service is {self.service}"
            raise InvalidArgument("WRONG_SERVICE", message, field="data")
        if unknown := set(header.revisions) - set(self.known_revisions()):
            message = f"a newer release wrote this state ({', '.join(sorted(unknown))}); install that release"
            raise FailedPrecondition("STATE_TOO_NEW", message)
        return header

    def _parts(self, session: Session) -> Iterator[upkeep_pb2.StatePart]:
        connection = session.connection()
        header = upkeep_pb2.StateHeader(service=self.service, revisions=revisions(connection))
        yield upkeep_pb2.StatePart(header=header)
        for references in self._grouped(session):
            yield upkeep_pb2.StatePart(references=references)
        for table in _tables(connection).values():
            for rows in _rows(connection, table):
                yield upkeep_pb2.StatePart(rows=rows)

    def _grouped(self, session: Session) -> list[upkeep_pb2.StateReferences]:
        found = sorted(set(self._references(session)), key=astuple)
        groups = (found[start : start + _REFERENCES_PER_PART] for start in range(0, len(found), _REFERENCES_PER_PART))
        return [
            upkeep_pb2.StateReferences(references=[upkeep_pb2.Reference(**vars(one)) for one in group])
            for group in groups
        ]


def _reflected(connection: Connection) -> MetaData:
    metadata = MetaData()
    metadata.reflect(connection)
    return metadata


def _tables(connection: Connection) -> dict[str, Table]:
    """Returns the tables that state files contain, each after the tables to which it refers."""
    return {table.name: table for table in _reflected(connection).sorted_tables if table.name not in _EXCLUDED_TABLES}


def _num_rows(connection: Connection) -> int:
    return sum(
        connection.execute(select(func.count()).select_from(table)).scalar_one()
        for table in _tables(connection).values()
    )


def _rows(connection: Connection, table: Table) -> Iterator[upkeep_pb2.StateRows]:
    """Yields the rows of a table, ordered by the primary key, in parts of bounded size."""
    part = upkeep_pb2.StateRows(table=table.name, columns=table.columns.keys())
    size = 0
    query = select(table).order_by(*table.primary_key.columns).execution_options(yield_per=_ROWS_PER_READ)
    for found in connection.execute(query):
        row = upkeep_pb2.Row(values=map(_to_value, found))
        part.rows.append(row)
        size += row.ByteSize()
        if size >= _PART_BYTES:
            yield part
            del part.rows[:]
            size = 0
    if part.rows:
        yield part


def _insert(connection: Connection, tables: dict[str, Table], part: upkeep_pb2.StateRows) -> None:
    table, width = tables.get(part.table), len(part.columns)
    if (
        table is None
        or set(part.columns) != set(table.columns.keys())
        or any(len(r.values) != width for r in part.rows)
    ):
        raise InvalidArgument("BAD_STATE", f"the rows do not match the table {part.table!r}", field="data")
    rows = [dict(zip(part.columns, map(_from_value, row.values), strict=True)) for row in part.rows]
    try:
        connection.execute(insert(table), rows)
    except IntegrityError as error:
        message = f"the rows do not match the table {part.table!r}: {error.orig}"
        raise InvalidArgument("BAD_STATE", message, field="data") from error


def _to_value(value: Any) -> upkeep_pb2.Value:
    match value:
        case None:
            return upkeep_pb2.Value()
        case bool():
            return upkeep_pb2.Value(boolean=value)
        case int():
            return upkeep_pb2.Value(integer=value)
        case float():
            return upkeep_pb2.Value(number=value)
        case str():
            return upkeep_pb2.Value(text=value)
        case bytes():
            return upkeep_pb2.Value(data=value)
    raise AssertionError(f"a state file cannot hold a value of type {type(value).__name__}")


def _from_value(value: upkeep_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    return getattr(value, kind) if kind else None
