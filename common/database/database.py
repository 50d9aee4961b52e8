"""Connections, transactions and migrations of a service's tables.

On both engines, only one transaction writes at a time. It holds SQLite's write lock (BEGIN IMMEDIATE) or, on
PostgreSQL, an advisory lock for the service's schema. As a result, rows that a transaction has read cannot change
before it commits, there are no serialization failures to retry, and code that works on one engine works on the other.
The price is that a service's writes are serialized; they are short, because content is never stored here. Snapshots
need no lock. A service opens only its own file or schema.
"""

import contextlib
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import sqlalchemy
from sqlalchemy import Connection, Engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.orm import Session

from common.database.base import READ_ONLY, now_us
from common.database.faults import translate
from common.database.migration import upgrade
from common.database.prepared import KeptConnection, PooledConnection, Prepared, Statement
from common.errors import InvalidArgument, Unavailable

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_URL_FORMS = "use sqlite:////path/to/file.db or postgresql+psycopg://..."
_LOCK_TIMEOUT_S = 30
"""Seconds for which a transaction waits for SQLite's write lock."""


class Database:
    """The tables of a service.

    Thread-safe; any number of processes may open the same database. The caller closes it.

    Args:
        url: SQLAlchemy URL: `sqlite:////absolute/path.db` or `postgresql+psycopg://user@host/database`.
        schema: PostgreSQL schema of the tables, created by `migrate`. Ignored for SQLite, where each service has its
            own file.

    Raises:
        InvalidArgument: BAD_DATABASE_URL.
    """

    def __init__(self, url: str, *, schema: str | None = None) -> None:
        try:
            parsed = make_url(url)
        except ArgumentError as error:
            raise InvalidArgument("BAD_DATABASE_URL", f"the state URL is not a SQLAlchemy URL; {_URL_FORMS}") from error
        if schema is not None and not _SCHEMA.fullmatch(schema):
            message = (
                f"{schema!r} is not a valid schema name; use 1 to 63 characters from a-z, 0-9 and _, "
                "not starting with a digit"
            )
            raise InvalidArgument("BAD_DATABASE_URL", message)
        self._schema: str | None = None
        # The query part of the URL may contain secrets too, under names that depend on the driver.
        self._name = parsed.set(query={}).render_as_string(hide_password=True)
        self._path: Path | None = None
        self._kept: KeptConnection | None = None
        if parsed.drivername in ("sqlite", "sqlite+pysqlite") and parsed.database not in (None, "", ":memory:"):
            self._path = Path(str(parsed.database))
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._engine = _sqlite_engine(parsed)
            self._kept = KeptConnection(self._engine, _LOCK_TIMEOUT_S)
        elif parsed.drivername == "postgresql+psycopg":
            self._schema = schema
            from common.database.postgresql import postgresql_engine

            self._engine = postgresql_engine(parsed, schema)
        else:
            raise InvalidArgument("BAD_DATABASE_URL", f"{self._name} is not supported; {_URL_FORMS}")
        self._reader = self._engine.execution_options(**{READ_ONLY: True})

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Session]:
        """Opens a write transaction, which commits at the end of the `with` block, or rolls back if the block raises.

        Loaded objects remain readable after the commit. Keep the block short, because only one write transaction runs
        at a time.

        Raises:
            Unavailable: DATABASE_UNREACHABLE, or DATABASE_BUSY if another transaction did not end in time.
            ResourceExhausted: DATABASE_FULL.
            FailedPrecondition: DATABASE_READ_ONLY.
            DataLoss: DATABASE_DAMAGED.
        """
        with self._errors(), Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextlib.contextmanager
    def prepared(self) -> Iterator[Prepared]:
        """Opens a write transaction for prepared statements. As `transaction`, for calls that must be fast.

        Raises:
            MeshError: See `transaction`.
        """
        with self._errors():
            if self._kept is not None:
                with self._kept.transaction() as opened:
                    yield opened
            else:
                with self._engine.begin() as connection:
                    yield PooledConnection(connection)

    def first(self, statement: Statement, values: Mapping[str, Any]) -> tuple[Any, ...] | None:
        """Returns the first row of a prepared query; None if there is no row. It sees all changes that are stored.

        Raises:
            MeshError: See `transaction`.
        """
        with self._errors():
            if self._kept is not None:
                with self._kept.reading() as opened:
                    return opened.first(statement, values)
            with self._reader.begin() as connection:
                return PooledConnection(connection).first(statement, values)

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Session]:
        """Opens a read-only transaction, which reads one consistent snapshot and never waits for a lock.

        Raises:
            MeshError: See `transaction`.
        """
        with self._errors(), Session(self._reader, expire_on_commit=False) as session, session.begin():
            yield session

    def migrate(self, *locations: Path) -> None:
        """Migrates the tables to the newest version, in one transaction. Concurrent migrations wait for each other.

        Args:
            locations: Folders with the service's Alembic revisions. Those of `common` are always included.

        Raises:
            FailedPrecondition: DATABASE_TOO_NEW if a newer release has migrated the tables.
        """
        with self._errors(), self._engine.connect() as connection:
            if self._schema is not None:
                with connection.begin():
                    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {self._schema}"))
            with connection.begin():
                upgrade(connection, locations)

    def clock_us(self, session: Session) -> int:
        """Returns the time as UTC microseconds, from a clock that all processes using this database share."""
        if self._path is not None:
            return now_us()
        clock = text("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)")
        return int(session.execute(clock).scalar_one())

    def check(self) -> None:
        """Checks that the database is available. The check is cheap enough for readiness checks.

        Raises:
            Unavailable: DATABASE_UNREACHABLE.
        """
        # If the file was deleted, open connections would continue to use it without an error.
        if self._path is not None and not self._path.exists():
            raise Unavailable("DATABASE_UNREACHABLE", f"the database at {self._path} is missing")
        with self.snapshot() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        """Closes all connections."""
        if self._kept is not None:
            self._kept.close()
        self._engine.dispose()

    @property
    def is_file(self) -> bool:
        """Whether the database is a file on this machine, as opposed to a server that several hosts may share."""
        return self._path is not None

    @property
    def engine(self) -> Engine:
        """The SQLAlchemy engine, for operations that sessions do not offer."""
        return self._engine

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            translated = translate(error, self._name)
            if translated is None:
                raise
            raise translated from error
        except PoolTimeoutError as error:
            message = f"all connections to {self._name} are in use; try again later"
            raise Unavailable("DATABASE_BUSY", message, retry_delay_s=1) from error


def _sqlite_engine(url: sqlalchemy.URL) -> Engine:
    engine = sqlalchemy.create_engine(url, pool_size=8, max_overflow=56, connect_args={"timeout": _LOCK_TIMEOUT_S})

    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, _record: Any) -> None:
        # Otherwise, the driver would start transactions late, and a read-only transaction could become a writing one.
        connection.isolation_level = None
        _use_wal(connection)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        read_only = connection.get_execution_options().get(READ_ONLY, False)
        connection.exec_driver_sql(f"PRAGMA query_only = {int(read_only)}")
        connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")

    return engine


def _use_wal(connection: sqlite3.Connection) -> None:
    deadline = time.monotonic() + _LOCK_TIMEOUT_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # The first switch to WAL fails while another connection uses the file, and SQLite does not wait until then.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
