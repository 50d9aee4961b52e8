"""Connections to PostgreSQL that do not wait for ever.

A machine that loses power, or a firewall that forgets a connection, closes nothing. The kernel notices (keepalives and
TCP_USER_TIMEOUT), unless something in between acknowledges what it never passes on: so silence is bounded here too. A
connection that was silent for too long is closed, its statement fails as the engine being away, and SQLAlchemy throws
all older connections away with it. What the server then still holds for somebody who has gone, it ends by itself.

Only who opens a PostgreSQL database imports this: the driver is an extra.
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
"""Seconds without a byte after which a server that owes an answer counts as away."""

LOCK_S = 20
"""Seconds a transaction waits for the one before it: fewer than a call has, so that its caller hears why, and more than
an idle one may hold up the others (`SILENCE_S`)."""

_SETTINGS = {
    "lock_timeout": f"{LOCK_S}s",
    "idle_in_transaction_session_timeout": f"{SILENCE_S}s",
    # For what nobody waits for any more.
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
    """A connection that closes itself if an answer is due and nothing comes.

    Attributes:
        silence_s: Seconds without a byte that it bears.
    """

    silence_s: float = SILENCE_S

    def wait(self, gen: PQGen[RV], *args: Any, **kwargs: Any) -> RV:
        """What every exchange with the server goes through."""
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
                    raise psycopg.OperationalError(f"silent for {self.silence_s:g} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            result: RV = end.value
            return result


def postgresql_engine(url: sqlalchemy.URL, schema: str | None) -> Engine:
    """Makes an engine whose writing transactions take turns.

    Args:
        url: Of the database.
        schema: Schema that holds the tables; None means the user's own.
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
            # Statements take their snapshots after this one, so they see all that the writer before has committed.
            with _allowing(connection, LOCK_S + SILENCE_S / 2):
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({lock})")

    return engine


@contextlib.contextmanager
def unhurried(connection: Connection) -> Iterator[None]:
    """Lets the statements of a transaction take as long as they need."""
    connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
    with _allowing(connection, float("inf")):
        yield


@contextlib.contextmanager
def _allowing(connection: Connection, silence_s: float) -> Iterator[None]:
    driver = connection.connection.driver_connection
    assert isinstance(driver, DriverConnection)
    driver.silence_s = silence_s
    try:
        yield
    finally:
        driver.silence_s = SILENCE_S
