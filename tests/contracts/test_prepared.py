"""Prepared statements over SQLite and PostgreSQL: their transactions are those of all other statements."""

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest
from sqlalchemy import Table, bindparam, select
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session

from common.database import Database, Statement
from common.database.requests import Request
from common.errors import NotFound, Unavailable
from tests.contracts.conftest import DatabasePlace
from tests.contracts.request_rows import new_request, request_ids

_TABLE = cast(Table, Request.__table__)
INSERT = Statement(_TABLE.insert())
READ = Statement(select(_TABLE.c.response).where(_TABLE.c.request_id == bindparam("key_id")))
UPDATE = Statement(
    _TABLE.update()
    .where(_TABLE.c.request_id == bindparam("key_id"), _TABLE.c.response == bindparam("key_response"))
    .values(response=bindparam("response"))
)


def values(request_id: str, response: str = "") -> dict[str, Any]:
    """The values of a row."""
    row = new_request(request_id, response)
    return {column.name: getattr(row, column.name) for column in _TABLE.c}


def test_a_transaction_commits_at_its_end_and_is_seen_by_all(database: Database, database_place: DatabasePlace) -> None:
    with database.prepared() as prepared:
        prepared.execute(INSERT, values("a", "1"))
        assert prepared.first(READ, {"key_id": "a"}) == ("1",)
    assert database.first(READ, {"key_id": "a"}) == ("1",)
    assert database.first(READ, {"key_id": "b"}) is None
    other = database_place.open()
    assert request_ids(other) == ["a"]
    with other.transaction() as session:
        session.get_one(Request, ("t", "m", "a")).response = "2"
    other.close()
    with database.prepared() as prepared:
        assert prepared.execute(UPDATE, {"key_id": "a", "key_response": "1", "response": "3"}) == 0
        assert prepared.execute(UPDATE, {"key_id": "a", "key_response": "2", "response": "3"}) == 1
    assert database.first(READ, {"key_id": "a"}) == ("3",)


def test_a_transaction_that_raises_leaves_no_trace(database: Database) -> None:
    def fail() -> None:
        with database.prepared() as prepared:
            prepared.execute(INSERT, values("a"))
            raise NotFound("GONE", "gone")

    with pytest.raises(NotFound):
        fail()
    assert request_ids(database) == []
    with database.prepared() as prepared:
        prepared.execute(INSERT, values("b"))
    assert request_ids(database) == ["b"]


def test_a_violated_constraint_is_not_blamed_on_the_engine(database: Database) -> None:
    with database.prepared() as prepared:
        prepared.execute(INSERT, values("a"))
    with pytest.raises(IntegrityError), database.prepared() as prepared:
        prepared.execute(INSERT, values("a"))
    assert request_ids(database) == ["a"]


def test_writers_of_both_kinds_take_turns(database: Database, database_place: DatabasePlace) -> None:
    with database.prepared() as prepared:
        prepared.execute(INSERT, values("counter", "0"))
    databases = [database, database_place.open()]

    def count(index: int) -> None:
        for number in range(10):
            one = databases[index % 2]
            if number % 2:
                with one.transaction() as session:
                    row = session.get_one(Request, ("t", "m", "counter"))
                    row.response = str(int(row.response) + 1)
            else:
                with one.prepared() as prepared:
                    found = prepared.first(READ, {"key_id": "counter"})
                    assert found is not None
                    change = {"key_id": "counter", "key_response": found[0], "response": str(int(found[0]) + 1)}
                    assert prepared.execute(UPDATE, change) == 1

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(count, range(6)))
    databases[1].close()
    assert database.first(READ, {"key_id": "counter"}) == ("60",)


def test_a_transaction_waits_for_another_one_only_for_a_while(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("common.database.database._LOCK_TIMEOUT_S", 0.05)
    database = Database(f"sqlite:///{tmp_path}/test.db")
    database.migrate()

    def occupy(opened: Any, begun: threading.Event, enough: threading.Event) -> None:
        with opened() as one:
            if isinstance(one, Session):
                one.connection()
            begun.set()
            assert enough.wait(60)

    for opened in (database.prepared, database.transaction):
        begun, enough = threading.Event(), threading.Event()
        thread = threading.Thread(target=occupy, args=(opened, begun, enough))
        thread.start()
        try:
            assert begun.wait(60)
            with pytest.raises(Unavailable) as error, database.prepared():
                pass
            assert error.value.reason == "DATABASE_BUSY"
            with pytest.raises(Unavailable) as error, database.transaction() as session:
                session.connection()
            assert error.value.reason == "DATABASE_BUSY"
        finally:
            enough.set()
            thread.join(60)
    with database.prepared() as prepared:
        prepared.execute(INSERT, values("a"))
    database.close()
    assert request_ids(database) == ["a"]
    database.close()
