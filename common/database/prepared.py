"""Statements that are compiled once, for calls that a service must answer within a millisecond.

With SQLite, they run on one connection that is kept, without SQLAlchemy, which takes several times as long as SQLite
itself. With PostgreSQL, whose round trips take longer than SQLAlchemy, they run on a connection of the pool.
"""

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from sqlalchemy import Connection, Dialect, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import PoolProxiedConnection
from sqlalchemy.sql.elements import ClauseElement

from common.errors import Unavailable

Row = tuple[Any, ...]


class Statement:
    """A statement with named parameters (`bindparam`), all of which are texts, numbers, booleans or None.

    Args:
        clause: Statement of SQLAlchemy. An UPDATE lists the columns that it sets.
    """

    def __init__(self, clause: Any) -> None:
        assert isinstance(clause, ClauseElement)
        self.clause: Any = clause
        self._compiled: tuple[str, tuple[str, ...]] | None = None

    def compiled(self, dialect: Dialect) -> tuple[str, tuple[str, ...]]:
        """Returns the text for a dialect with positional parameters, and the names of the parameters in order."""
        if self._compiled is None:
            compiled = self.clause.compile(dialect=dialect)
            self._compiled = str(compiled), tuple(compiled.positiontup)
        return self._compiled


class Prepared(Protocol):
    """An open transaction that executes prepared statements."""

    def execute(self, statement: Statement, values: Mapping[str, Any]) -> int:
        """Executes a statement that changes rows, and returns their number, which is not known for an INSERT."""

    def first(self, statement: Statement, values: Mapping[str, Any]) -> Row | None:
        """Returns the first row of a query; None if there is none."""


class PooledConnection:
    """Executes prepared statements on a connection of SQLAlchemy.

    Args:
        connection: Connection with an open transaction.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def execute(self, statement: Statement, values: Mapping[str, Any]) -> int:
        """See `Prepared`."""
        return self._connection.execute(statement.clause, values).rowcount

    def first(self, statement: Statement, values: Mapping[str, Any]) -> Row | None:
        """See `Prepared`."""
        row = self._connection.execute(statement.clause, values).first()
        return None if row is None else tuple(row)


class KeptConnection:
    """Executes prepared statements on one connection to an SQLite file. Thread-safe: one transaction at a time.

    Args:
        engine: Engine of the file, from which the connection is taken.
        timeout_s: Seconds for which a transaction waits for others in this process.
    """

    def __init__(self, engine: Engine, timeout_s: float) -> None:
        self._engine = engine
        self._timeout_s = timeout_s
        self._lock = threading.Lock()
        self._connection: PoolProxiedConnection | None = None
        self._cursor: Any = None

    @contextlib.contextmanager
    def transaction(self) -> Iterator[Prepared]:
        """Opens a write transaction.

        Raises:
            DBAPIError: As SQLAlchemy raises it.
            Unavailable: DATABASE_BUSY.
        """
        with self._turn(), self._errors():
            self._run("BEGIN IMMEDIATE")
            try:
                yield self
                self._run("COMMIT")
            except BaseException:
                self._discard()
                raise

    @contextlib.contextmanager
    def reading(self) -> Iterator[Prepared]:
        """Opens the connection for one query, which sees the newest rows."""
        with self._turn(), self._errors():
            yield self

    def execute(self, statement: Statement, values: Mapping[str, Any]) -> int:
        """See `Prepared`."""
        sql, names = statement.compiled(self._engine.dialect)
        return int(self._run(sql, [values[name] for name in names]).rowcount)

    def first(self, statement: Statement, values: Mapping[str, Any]) -> Row | None:
        """See `Prepared`."""
        sql, names = statement.compiled(self._engine.dialect)
        rows: list[Row] = self._run(sql, [values[name] for name in names]).fetchall()
        return rows[0] if rows else None

    def close(self) -> None:
        """Closes the connection. A later use opens another one."""
        with self._lock:
            self._discard()

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._lock.acquire(timeout=self._timeout_s):
            message = f"the database has been busy for {self._timeout_s:g} s; try again later"
            raise Unavailable("DATABASE_BUSY", message, retry_delay_s=1)
        try:
            yield
        finally:
            self._lock.release()

    def _run(self, sql: str, values: list[Any] = []) -> Any:  # noqa: B006 - never changed
        if self._connection is None:
            self._connection = self._engine.raw_connection()
            self._cursor = self._connection.cursor()
            self._cursor.execute("PRAGMA query_only = 0")
        return self._cursor.execute(sql, values)

    def _discard(self) -> None:
        """Closes the connection, which rolls back an open transaction."""
        if self._connection is not None:
            self._connection.invalidate()
            self._connection = self._cursor = None

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.Error as error:
            raise DBAPIError.instance(None, None, error, sqlite3.Error, dialect=self._engine.dialect) from error
