"""Between a service's tables and a state file. What tables there are is read from the database itself; one is left out,
the anchor of the audit log, which belongs to a log that lies on this machine and stays there.

Rows leave in one snapshot and come in in one transaction, into empty tables only. A file of an earlier release is taken
in by making the tables as they were then and migrating them with the rows in them, as the rows of a service that was
there all the time have been.
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
_NO_STATE = frozenset({VERSION_TABLE, _ANCHORS})
_PART_BYTES = 1 << 18
_ROWS_A_READ = 1000
_REFERENCES_A_PART = 1000


@dataclass(frozen=True)
class Reference:
    """An artifact that a row refers to.

    Attributes:
        tenant: Whose it is.
        sha256: Its digest.
        media_type: RFC 6838 media type; tells manifests from the rest.
    """

    tenant: str
    sha256: str
    media_type: str


References = Callable[[Session], Iterable[Reference]]
"""Tells what a service's rows refer to, as a snapshot of its database has them."""


class State:
    """The state of one service. Thread-safe.

    Args:
        service: Its name.
        database: Its database, migrated.
        migrations: Folder of its revisions.
        references: What its rows refer to.
    """

    def __init__(self, service: str, database: Database, migrations: Path, references: References) -> None:
        self.service = service
        self._database = database
        self._migrations = [migrations]
        self._references = references

    def num_rows(self) -> int:
        """Counts the rows of all tables."""
        with self._database.snapshot() as session:
            return _num_rows(session.connection())

    def revisions(self) -> list[str]:
        """The newest revision of each area that the tables are at."""
        with self._database.snapshot() as session:
            return revisions(session.connection())

    def known_revisions(self) -> list[str]:
        """Every revision that `load` takes."""
        return known_revisions(self._migrations)

    def references(self) -> list[upkeep_pb2.StateReferences]:
        """Every artifact that a row refers to, in groups of a message's size."""
        with self._database.snapshot() as session:
            return self._grouped(session)

    def dump(self, file: BinaryIO) -> None:
        """Writes all rows of one moment, and what they refer to, as a state file."""
        with self._database.snapshot() as session:
            statefile.write(file, self._parts(session))

    def load(self, file: BinaryIO) -> int:
        """Takes a state file in, all of it or nothing.

        Args:
            file: The file, at its beginning; it is read twice.

        Returns:
            The number of rows.

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
                message = f"{self.service} has rows already; restore into a mesh that nobody has used yet"
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
        """Reads a file to its end before anything of it is believed."""
        header = next(statefile.read(file)).header
        file.seek(0)
        for _ in statefile.read(file):
            pass
        if header.service != self.service:
            message = f"this is the state of {header.service}, and this is {self.service}"
            raise InvalidArgument("WRONG_SERVICE", message, field="data")
        if unknown := set(header.revisions) - set(self.known_revisions()):
            message = f"a newer release wrote this state ({', '.join(sorted(unknown))}); install that one"
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
        groups = (found[start : start + _REFERENCES_A_PART] for start in range(0, len(found), _REFERENCES_A_PART))
        return [
            upkeep_pb2.StateReferences(references=[upkeep_pb2.Reference(**vars(one)) for one in group])
            for group in groups
        ]


def _reflected(connection: Connection) -> MetaData:
    metadata = MetaData()
    metadata.reflect(connection)
    return metadata


def _tables(connection: Connection) -> dict[str, Table]:
    """The tables that hold the state, each after those that it refers to."""
    return {table.name: table for table in _reflected(connection).sorted_tables if table.name not in _NO_STATE}


def _num_rows(connection: Connection) -> int:
    return sum(
        connection.execute(select(func.count()).select_from(table)).scalar_one()
        for table in _tables(connection).values()
    )


def _rows(connection: Connection, table: Table) -> Iterator[upkeep_pb2.StateRows]:
    """A table's rows in the order of its key, in parts of bounded size."""
    part = upkeep_pb2.StateRows(table=table.name, columns=table.columns.keys())
    size = 0
    query = select(table).order_by(*table.primary_key.columns).execution_options(yield_per=_ROWS_A_READ)
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
        raise InvalidArgument("BAD_STATE", f"its rows do not fit the table {part.table!r}", field="data")
    rows = [dict(zip(part.columns, map(_from_value, row.values), strict=True)) for row in part.rows]
    try:
        connection.execute(insert(table), rows)
    except IntegrityError as error:
        message = f"its rows do not fit the table {part.table!r}: {error.orig}"
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
    raise AssertionError(f"no table of ours has a {type(value).__name__}")


def _from_value(value: upkeep_pb2.Value) -> Any:
    kind = value.WhichOneof("kind")
    return getattr(value, kind) if kind else None
