"""A repeated request takes effect once, over SQLite and a real PostgreSQL."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from common.database import Database, Repeatable, earlier, now_us, once
from common.database.requests import KEPT_US, Request
from common.errors import AlreadyExists, InvalidArgument, MeshError, NotFound
from tests.contracts.request_rows import new_request, request_ids


def _make(database: Database, body: bytes, *, request_id: str = "r-1", method: str = "Make", tenant: str = "t") -> str:
    """A creating call: its effect is one row."""
    with database.transaction() as session:

        def effect() -> str:
            name = f"made-{now_us()}-{threading.get_ident()}"
            session.add(new_request(name))
            return name

        return once(session, tenant, Repeatable(method, request_id, body), effect)


def _made(database: Database) -> list[str]:
    return [request_id for request_id in request_ids(database) if request_id.startswith("made-")]


def test_the_same_request_takes_effect_once(database: Database) -> None:
    first = _make(database, b"body")

    assert _make(database, b"body") == first
    assert _made(database) == [first]


def test_the_same_id_with_another_body_is_refused(database: Database) -> None:
    first = _make(database, b"body")

    with pytest.raises(AlreadyExists) as caught:
        _make(database, b"another")

    assert (caught.value.reason, caught.value.field) == ("REQUEST_ID_REUSED", "request_id")
    assert _made(database) == [first]
    assert _make(database, b"body") == first


def test_a_repeated_request_is_found_before_its_effect(database: Database) -> None:
    def found(body: bytes, request_id: str = "r-1") -> str | None:
        with database.snapshot() as session:
            return earlier(session, "t", Repeatable("Make", request_id, body))

    assert found(b"body") is None
    first = _make(database, b"body")
    assert found(b"body") == first
    assert found(b"body", "r-2") is None
    assert found(b"body", "") is None
    with pytest.raises(AlreadyExists) as caught:
        found(b"another")
    assert caught.value.reason == "REQUEST_ID_REUSED"
    with pytest.raises(InvalidArgument) as refused:
        found(b"body", "with spaces")
    assert (refused.value.reason, refused.value.field) == ("BAD_VALUE", "request_id")


def test_ids_of_other_tenants_and_methods_do_not_meet(database: Database) -> None:
    names = {
        _make(database, b"a"),
        _make(database, b"b", tenant="other"),
        _make(database, b"c", method="Remake"),
        _make(database, b"d", request_id="r-2"),
    }

    assert len(names) == 4


def test_without_an_id_each_request_takes_effect(database: Database) -> None:
    assert _make(database, b"body", request_id="") != _make(database, b"body", request_id="")


def test_an_effect_that_fails_leaves_no_trace_of_its_id(database: Database) -> None:
    def effect() -> str:
        raise NotFound("GONE", "gone")

    with pytest.raises(NotFound), database.transaction() as session:
        once(session, "t", Repeatable("Make", "r-1", b"body"), effect)

    assert request_ids(database) == []
    assert _make(database, b"another body") in _made(database)


def test_the_same_request_at_once_takes_effect_once(database: Database) -> None:
    start = threading.Barrier(8)

    def send(_: int) -> str:
        start.wait()
        return _make(database, b"body")

    with ThreadPoolExecutor(8) as pool:
        names = set(pool.map(send, range(8)))

    assert len(names) == 1
    assert _made(database) == list(names)


def test_different_requests_with_one_id_at_once_leave_one_winner(database: Database) -> None:
    start = threading.Barrier(8)

    def send(index: int) -> str:
        start.wait()
        try:
            return _make(database, b"body %d" % index)
        except MeshError as error:
            return error.reason

    with ThreadPoolExecutor(8) as pool:
        outcomes = list(pool.map(send, range(8)))

    assert outcomes.count("REQUEST_ID_REUSED") == 7
    assert len(_made(database)) == 1


def test_an_id_is_forgotten_after_seven_days(database: Database) -> None:
    first = _make(database, b"body")
    with database.transaction() as session:
        session.get_one(Request, ("t", "Make", "r-1")).create_us -= KEPT_US + 1

    assert _make(database, b"another") != first


@pytest.mark.parametrize("request_id", ["x" * 129, "a b", "a\n", "a\0", "é"])
def test_hostile_request_ids_are_refused(database: Database, request_id: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        _make(database, b"body", request_id=request_id)

    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", "request_id")
    assert request_ids(database) == []
