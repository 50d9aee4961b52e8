"""A service's database over SQLite and a real PostgreSQL: transactions, snapshots, readiness and lost servers."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import select, text
from sqlalchemy.exc import DBAPIError, IntegrityError

from common.database import Database, now_us
from common.database.requests import Request
from common.errors import FailedPrecondition, NotFound, Unavailable
from tests.contracts.conftest import DatabasePlace
from tests.contracts.request_rows import new_request, request_ids


def test_a_transaction_commits_at_its_end(database: Database, database_place: DatabasePlace) -> None:
    with database.transaction() as session:
        row = new_request("a")
        session.add(row)

    assert row.request_id == "a"
    other = database_place.open()
    assert request_ids(other) == ["a"]
    other.close()


def test_a_transaction_that_raises_leaves_no_trace(database: Database) -> None:
    def fail() -> None:
        with database.transaction() as session:
            session.add(new_request("a"))
            session.flush()
            raise NotFound("GONE", "gone")

    with pytest.raises(NotFound):
        fail()

    assert request_ids(database) == []


def test_writers_take_turns_so_that_what_was_read_holds(database: Database, database_place: DatabasePlace) -> None:
    with database.transaction() as session:
        session.add(new_request("counter", "0"))
    databases = [database, database_place.open()]

    def count(index: int) -> None:
        for _ in range(10):
            with databases[index % 2].transaction() as session:
                row = session.get_one(Request, ("t", "m", "counter"))
                row.response = str(int(row.response) + 1)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(count, range(6)))
    databases[1].close()

    with database.snapshot() as session:
        assert session.get_one(Request, ("t", "m", "counter")).response == "60"


def test_a_snapshot_waits_for_nobody_and_sees_one_moment(database: Database) -> None:
    with database.transaction() as session:
        session.add(new_request("before"))

    with database.snapshot() as reader:
        assert list(reader.scalars(select(Request.request_id))) == ["before"]
        with database.transaction() as writer:
            writer.add(new_request("after"))
            writer.flush()
            assert request_ids(database) == ["before"]
        assert list(reader.scalars(select(Request.request_id))) == ["before"]

    assert request_ids(database) == ["after", "before"]


def test_a_snapshot_cannot_write(database: Database) -> None:
    with pytest.raises(FailedPrecondition) as caught, database.snapshot() as session:
        session.add(new_request("a"))

    assert caught.value.reason == "DATABASE_READ_ONLY"
    with database.transaction() as session:
        session.add(new_request("b"))
    assert request_ids(database) == ["b"]


def test_a_violated_constraint_is_not_blamed_on_the_engine(database: Database) -> None:
    with database.transaction() as session:
        session.add(new_request("a"))

    with pytest.raises(IntegrityError), database.transaction() as session:
        session.add(new_request("a"))


def test_a_wrong_statement_is_not_blamed_on_the_engine(database: Database) -> None:
    with pytest.raises(DBAPIError), database.transaction() as session:
        session.execute(text("SELECT nonsense"))


def test_the_shared_clock_is_in_microseconds(database: Database) -> None:
    with database.snapshot() as session:
        assert abs(database.clock_us(session) - now_us()) < 5_000_000


def test_a_database_that_answers_is_ready(database: Database) -> None:
    database.check()


def test_a_server_that_cut_its_connections_is_found_again(postgresql_url: str) -> None:
    database = Database(postgresql_url, schema="cut")
    database.migrate()
    others = text(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND state = 'idle in transaction'"
    )

    def write_while_cut() -> None:
        with database.transaction() as session:
            session.add(new_request("a"))
            session.flush()
            with database.snapshot() as other:
                other.execute(others).all()

    with pytest.raises(Unavailable) as caught:
        write_while_cut()
    assert caught.value.reason == "DATABASE_UNREACHABLE"

    assert request_ids(database) == []
    database.check()
    database.close()


def test_schemas_of_two_services_do_not_meet(postgresql_url: str) -> None:
    one, two = (Database(postgresql_url, schema=name) for name in ("service_one", "service_two"))
    one.migrate()
    two.migrate()
    # Neither waits for the other's writer.
    with one.transaction() as session, two.transaction() as other:
        session.add(new_request("a"))
        session.flush()
        other.add(new_request("b"))

    assert (request_ids(one), request_ids(two)) == (["a"], ["b"])
    one.close()
    two.close()


def test_a_server_that_is_away_is_a_clear_error_without_the_password(tmp_path: Path) -> None:
    database = Database(f"postgresql+psycopg://mesh:hunter2@/postgres?host={tmp_path}", schema="mesh")

    for call in (database.check, database.migrate):
        with pytest.raises(Unavailable) as caught:
            call()
        assert caught.value.reason == "DATABASE_UNREACHABLE"
        assert "hunter2" not in str(caught.value)
