"""Connections, transactions and migrations of a service's own tables.

One writer at a time, on both engines: a transaction takes SQLite's write lock (BEGIN IMMEDIATE) or, on PostgreSQL, an
advisory lock of the service's schema. So what a transaction has read cannot change under it, nothing has to be retried
for serialization failures, and code that is right on one engine is right on the other. The price is that a service's
writes do not overlap; they are short, and bytes never pass through here. Snapshots read without any lock.

It is not a way to somebody else's tables: a service opens its own file or schema only.
"""

import contextlib
import re
import sqlite3
import time
from collections.abc import Iterator
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
from common.errors import InvalidArgument, Unavailable

_SCHEMA = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_PATIENCE_S = 30
"""Seconds a transaction waits for the one before it in SQLite."""


class Database:
    """A service's own tables.

    Thread-safe; any number of processes may open the same one. The caller closes it.

    Args:
        url: SQLAlchemy URL: `sqlite:////absolute/path.db` or `postgresql+psycopg://user@host/database`.
        schema: PostgreSQL schema that holds the tables; made by `migrate`. Ignored for SQLite, which
            has one file a service instead.

    Raises:
        InvalidArgument: BAD_DATABASE_URL.
    """

    def __init__(self, url: str, *, schema: str | None = None) -> None:
        try:
            parsed = make_url(url)
        except ArgumentError as error:
            raise InvalidArgument("BAD_DATABASE_URL", "the state URL is not a SQLAlchemy URL") from error
        if schema is not None and not _SCHEMA.fullmatch(schema):
            raise InvalidArgument("BAD_DATABASE_URL", f"{schema!r} cannot be the name of a schema")
        self._schema: str | None = None
        # A driver takes secrets in the query too, under names of its own.
        self._name = parsed.set(query={}).render_as_string(hide_password=True)
        self._path: Path | None = None
        if parsed.drivername in ("sqlite", "sqlite+pysqlite") and parsed.database not in (None, "", ":memory:"):
            self._path = Path(str(parsed.database))
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._engine = _sqlite_engine(parsed)
        elif parsed.drivername == "postgresql+psycopg":
            self._schema = schema
            from common.database.postgresql import postgresql_engine

            self._engine = postgresql_engine(parsed, schema)
        else:
            raise InvalidArgument(
                "BAD_DATABASE_URL",
                f"{self._name} is not supported; write sqlite:////path/to/file.db or postgresql+psycopg://...",
            )
        self._reader = self._engine.execution_options(**{READ_ONLY: True})

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Session]:
        """Opens the one writing transaction; commits at the end, rolls back if the block raises.

        Objects stay readable afterwards. Keep it short, and do nothing slow inside: others wait.

        Raises:
            Unavailable: DATABASE_UNREACHABLE, or DATABASE_BUSY if another transaction did not end.
            ResourceExhausted: DATABASE_FULL.
            FailedPrecondition: DATABASE_READ_ONLY.
            DataLoss: DATABASE_DAMAGED.
        """
        with self._errors(), Session(self._engine, expire_on_commit=False) as session, session.begin():
            yield session

    @contextlib.contextmanager
    def snapshot(self) -> Iterator[Session]:
        """Opens a read-only transaction, which waits for nobody and sees one moment.

        Raises:
            MeshError: As `transaction`.
        """
        with self._errors(), Session(self._reader, expire_on_commit=False) as session, session.begin():
            yield session

    def migrate(self, *locations: Path) -> None:
        """Brings the tables to the newest version, in one transaction; concurrent callers wait for the first.

        Args:
            locations: Folders with the service's own Alembic revisions. Those of `common` are always included.

        Raises:
            FailedPrecondition: DATABASE_TOO_NEW if a newer release has migrated them already.
        """
        with self._errors(), self._engine.connect() as connection:
            if self._schema is not None:
                with connection.begin():
                    connection.execute(text(f"CREATE SCHEMA IF NOT EXISTS {self._schema}"))
            with connection.begin():
                upgrade(connection, locations)

    def clock_us(self, session: Session) -> int:
        """Returns the time as UTC microseconds, by a clock that all processes of this database share."""
        if self._path is not None:
            return now_us()
        clock = text("SELECT CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)")
        return int(session.execute(clock).scalar_one())

    def check(self) -> None:
        """Returns if the database answers; cheap, for readiness probes.

        Raises:
            Unavailable: DATABASE_UNREACHABLE.
        """
        # An open connection would go on with a file that was removed, and lose all of it.
        if self._path is not None and not self._path.exists():
            raise Unavailable("DATABASE_UNREACHABLE", f"the database at {self._path} is gone")
        with self.snapshot() as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        """Closes all connections."""
        self._engine.dispose()

    @property
    def is_file(self) -> bool:
        """Whether it is a file on this machine, and not a server that several may share."""
        return self._path is not None

    @property
    def engine(self) -> Engine:
        """The engine beneath, for what sessions cannot do."""
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
            message = f"all connections to {self._name} are in use"
            raise Unavailable("DATABASE_BUSY", message, retry_delay_s=1) from error


def _sqlite_engine(url: sqlalchemy.URL) -> Engine:
    engine = sqlalchemy.create_engine(url, pool_size=8, max_overflow=56, connect_args={"timeout": _PATIENCE_S})

    @event.listens_for(engine, "connect")
    def connect(connection: sqlite3.Connection, _record: Any) -> None:
        # The driver's own idea of when a transaction begins would begin reading ones late and as upgradable.
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
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:
            # Nobody may use the file during the first switch, and here SQLite does not wait by itself.
            if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(0.01)
        else:
            return
