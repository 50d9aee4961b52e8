"""Connections to PostgreSQL that never wait forever.

When the server's host loses power, or a firewall drops a connection, the connection is not closed. The kernel detects
this (by keepalives and TCP_USER_TIMEOUT), but not behind a proxy that acknowledges data without forwarding it. This
module therefore limits silence as well: it closes a silent connection, the statement fails with DATABASE_UNREACHABLE,
and SQLAlchemy discards all older connections. The server has timeouts of its own for abandoned sessions. This module is
imported only for PostgreSQL databases, because the driver is an optional dependency.
"""

import contextlib
import hashlib
import time
from collections.abc import Iterator
from typing import Any

import psycopg
import sqlalchemy
from psycopg.abc import RV, PQGen
from sqlalchemy import Connection, Engine, event

from common.database.base import READ_ONLY

SILENCE_S = 10
"""A server from which a response is due counts as unreachable after this many seconds without a byte."""

LOCK_S = 20
"""Seconds for which a transaction waits for the write lock. The limit is below the default deadline of calls, so that
the caller sees the reason, and above `SILENCE_S`, after which the server ends an idle transaction that has the lock."""

_SETTINGS = {
    "lock_timeout": f"{LOCK_S}s",
    "idle_in_transaction_session_timeout": f"{SILENCE_S}s",
    # Ends the statements of clients that have given up.
    "statement_timeout": f"{LOCK_S + SILENCE_S}s",
}
_SOCKET = {
    "connect_timeout": 5,
    "keepalives_idle": SILENCE_S,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": SILENCE_S * 1000,
}


class DriverConnection(psycopg.Connection[Any]):
    """A connection that closes itself if a response is due and nothing arrives.

    Attributes:
        silence_s: Maximum number of seconds without a byte from the server.
    """

    silence_s: float = SILENCE_S

    def wait(self, gen: PQGen[RV], *args: Any, **kwargs: Any) -> RV:
        """Runs an exchange with the server. Every exchange goes through this method."""
        return super().wait(self._listening(gen), *args, **kwargs)

    def _listening(self, gen: PQGen[RV]) -> PQGen[RV]:
        heard_s = time.monotonic()
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                now_s = time.monotonic()
                if ready:
                    heard_s = now_s
                elif now_s - heard_s > self.silence_s:
                    self.close()
                    raise psycopg.OperationalError(f"the server sent nothing for {self.silence_s:g} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            result: RV = end.value
            return result


def postgresql_engine(url: sqlalchemy.URL, schema: str | None) -> Engine:
    """Returns an engine that serializes write transactions: at most one runs at a time.

    Args:
        url: URL of the database.
        schema: Schema of the tables; None means the database user's default.
    """
    settings = _SETTINGS | ({"search_path": schema} if schema else {})
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    engine = sqlalchemy.create_engine(
        url,
        pool_size=8,
        max_overflow=56,
        pool_pre_ping=True,
        isolation_level="READ COMMITTED",
        connect_args={**_SOCKET, "options": options},
    )
    digest = hashlib.sha256(f"deepseek-mesh/{schema or 'public'}".encode()).digest()
    lock = int.from_bytes(digest[:8], "big", signed=True)

    @event.listens_for(engine, "do_connect")
    def do_connect(_dialect: Any, _record: Any, args: list[Any], kwargs: dict[str, Any]) -> DriverConnection:
        return DriverConnection.connect(*args, **kwargs)

    @event.listens_for(engine, "begin")
    def begin(connection: Connection) -> None:
        if connection.get_execution_options().get(READ_ONLY, False):
            connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        else:
            # Each later statement takes its own snapshot, after the lock was acquired, so it sees all earlier commits.
            with _with_silence_limit(connection, LOCK_S + SILENCE_S / 2):
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({lock})")

    return engine


@contextlib.contextmanager
def without_silence_limit(connection: Connection) -> Iterator[None]:
    """Removes the limits on silence and statement duration from the current transaction, within the `with` block."""
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    with _with_silence_limit(connection, float("inf")):
        yield


@contextlib.contextmanager
def _with_silence_limit(connection: Connection, silence_s: float) -> Iterator[None]:
    driver = connection.connection.driver_connection
    assert isinstance(driver, DriverConnection)
    driver.silence_s = silence_s
    try:
        yield
    finally:
        driver.silence_s = SILENCE_S
