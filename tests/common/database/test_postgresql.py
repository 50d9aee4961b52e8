"""What is special about PostgreSQL: the network between. Here its connections go silent, and nobody is told."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from sqlalchemy import text
from sqlalchemy.orm import Session

from common.database import Database, postgresql
from common.errors import Unavailable
from protos.registry.v1 import registry_pb2, registry_pb2_grpc
from tests.harness import servers
from tests.harness.processes import wait_until
from tests.harness.proxy import Proxy
from tests.harness.subprocesses import ServiceSubprocess

SOON_S = 15.0
BRIEF_S = 2.0


@pytest.fixture(scope="module")
def server() -> Iterator[servers.PostgreSQL]:
    with servers.postgresql_server() as server:
        yield server


@pytest.fixture
def proxy(server: servers.PostgreSQL) -> Iterator[Proxy]:
    with Proxy(server.socket) as proxy:
        yield proxy


@pytest.fixture
def database(proxy: Proxy) -> Iterator[Database]:
    database = Database(url(proxy))
    yield database
    database.close()


@pytest.fixture
def briefly_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postgresql, "SILENCE_S", BRIEF_S)
    monkeypatch.setattr(postgresql.DriverConnection, "silence_s", BRIEF_S)


def url(proxy: Proxy) -> str:
    return f"postgresql+psycopg://mesh@{proxy.address}/postgres"


def ask(session: Session) -> None:
    session.execute(text("SELECT 1"))


def sleep(session: Session, seconds: float) -> None:
    session.execute(text("SELECT pg_sleep(:seconds)"), {"seconds": seconds})


@pytest.mark.faults
@pytest.mark.slow
def test_whoever_waits_on_connections_that_went_silent_is_told(
    server: servers.PostgreSQL, database: Database, proxy: Proxy
) -> None:
    under_way, stalled = threading.Barrier(3), threading.Event()

    def hang(begin: Callable[[], AbstractContextManager[Session]]) -> None:
        with begin() as session:
            ask(session)
            under_way.wait(30)
            assert stalled.wait(30)
            ask(session)

    def queue() -> None:
        with database.transaction() as session:
            ask(session)

    def seconds_to_fail(act: Callable[[], None]) -> float:
        begin_s = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            act()
        assert caught.value.reason == "DATABASE_UNREACHABLE"
        return time.monotonic() - begin_s

    def is_queued() -> bool:
        with direct.snapshot() as session:
            return bool(session.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")))

    direct = Database(server.url)
    with ThreadPoolExecutor(3) as pool:
        hung = [
            pool.submit(seconds_to_fail, lambda begin=begin: hang(begin))
            for begin in (database.transaction, database.snapshot)
        ]
        under_way.wait(30)
        queued = pool.submit(seconds_to_fail, queue)
        wait_until(is_queued, "a transaction to wait for the one before it")
        proxy.stall()
        stalled.set()
        assert max(call.result() for call in hung) < SOON_S
        database.check()
        queue()
        assert queued.result() < postgresql.LOCK_S + SOON_S
    direct.close()


@pytest.mark.faults
@pytest.mark.slow
def test_a_service_whose_connections_went_silent_is_ready_again_soon(proxy: Proxy, tmp_path: Path) -> None:
    registry = ServiceSubprocess("registry", tmp_path, settings={"state_url": url(proxy)})

    def is_ready() -> bool:
        request = health_pb2.HealthCheckRequest(service="deepseek.registry.v1.RegistryService")
        answer = health_pb2_grpc.HealthStub(channel).Check(request)
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    registry.start()
    try:
        channel = registry.channel()
        wait_until(is_ready, "the registry to be ready")
        proxy.stall()
        stalled_s = time.monotonic()
        stub = registry_pb2_grpc.RegistryServiceStub(channel)
        assert not stub.ListModels(registry_pb2.ListModelsRequest()).models
        wait_until(is_ready, "the registry to be ready again")
        assert time.monotonic() - stalled_s < SOON_S
    finally:
        registry.close()


def test_who_waits_for_another_transaction_bears_more_silence(briefly_silent: None, database: Database) -> None:
    begun = threading.Event()

    def hold() -> None:
        with database.transaction() as session:
            begun.set()
            for _ in range(5):
                sleep(session, BRIEF_S / 2)

    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(hold)
        assert begun.wait(30)
        with database.transaction() as session:
            held.result()
            ask(session)


def test_only_a_migration_may_take_as_long_as_it_needs(briefly_silent: None, database: Database) -> None:
    with database.transaction() as session, postgresql.without_silence_limit(session.connection()):
        sleep(session, 3 * BRIEF_S)
    with pytest.raises(Unavailable, match="sent nothing for 2 s"), database.transaction() as session:
        sleep(session, 60)
    database.check()


def test_an_answer_that_comes_bit_by_bit_is_no_silence(briefly_silent: None, database: Database) -> None:
    with database.snapshot() as session:
        rows = session.execute(text("SELECT repeat('x', 10000), pg_sleep(0.25) FROM generate_series(1, 12)"))
        assert len(rows.all()) == 12


def test_a_statement_that_the_server_ends_is_no_bug(database: Database) -> None:
    def exceed() -> None:
        with database.snapshot() as session:
            session.execute(text("SET LOCAL statement_timeout = 100"))
            sleep(session, 60)

    with pytest.raises(Unavailable, match="statement timeout") as caught:
        exceed()
    assert caught.value.reason == "DATABASE_BUSY"


@pytest.mark.parametrize("setting", ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout"])
def test_the_server_ends_what_nobody_waits_for_any_more(setting: str, database: Database) -> None:
    with database.snapshot() as session:
        assert session.scalar(text(f"SHOW {setting}")) not in ("0", None)
