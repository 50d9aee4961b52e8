"""The contract of RoundStore, for every implementation."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path

import pytest

from common.errors import Aborted, NotFound
from common.names import new_id
from deepseek.federated.rounds import (
    NEXT_STATES,
    RefusalRecord,
    Round,
    RoundAudit,
    RoundRecord,
    RoundState,
    RoundStore,
)
from services.federated.round_store import SqlRoundStore
from tests.contracts.conftest import DatabasePlace
from tests.deepseek.federated.memory_rounds import MemoryRoundStore

MIGRATIONS = Path(__file__).parents[2] / "services" / "federated" / "migrations"
RUN = "federations/f/runs/r"
REFUSED = (RefusalRecord("SHA256:b", "NOT_FINITE", "NaN — 'ü'\n"),)
FIRST = Round(RUN, 1, 1, RoundState.PLANNED, 1_700_000_000.25, cohort=("SHA256:a", "SHA256:b"))
COLLECTED = replace(
    FIRST,
    state=RoundState.COLLECTED,
    sealed_model="a" * 64,
    sealed_state="b" * 64,
    record=RoundRecord(num_asked=2, num_counted=1, refusals=REFUSED, train_metrics={"loss": 0.1}, round_s=1.5),
    audit=RoundAudit(("SHA256:a",), REFUSED, 1, {"loss": 0.1}, 1.25, 2, 3),
)
DEBITED = replace(
    COLLECTED,
    state=RoundState.DEBITED,
    debit="budgets/b/debits/1",
    record=replace(COLLECTED.record, epsilon_spent=0.5, epsilon_left=2.5),
)
RELEASED = replace(
    DEBITED,
    state=RoundState.RELEASED,
    model_version="models/m/versions/1",
    record=replace(DEBITED.record, metrics={"accuracy": 0.75}),
)

OpenStore = Callable[[], RoundStore]


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def open_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[OpenStore]:
    """Opens the same store again and again, as processes that come after each other do."""
    if request.param == "memory":
        memory = MemoryRoundStore()
        yield lambda: memory
        return
    is_file = request.param == "sqlite"
    url = f"sqlite:///{tmp_path}/state/test.db" if is_file else request.getfixturevalue("postgresql_url")
    place = DatabasePlace(url, f"test_{new_id()}")
    with ExitStack() as opened:

        def open_database() -> SqlRoundStore:
            database = opened.enter_context(closing(place.open()))
            database.migrate(MIGRATIONS)
            return SqlRoundStore(database, "default")

        yield open_database


@pytest.fixture
def store(open_store: OpenStore) -> RoundStore:
    return open_store()


def _release(store: RoundStore, planned: Round) -> Round:
    collected = replace(planned, state=RoundState.COLLECTED, sealed_model="c" * 64)
    released = replace(collected, state=RoundState.RELEASED)
    store.add(planned)
    store.advance(collected, expected=RoundState.PLANNED)
    store.advance(released, expected=RoundState.COLLECTED)
    return released


def test_a_run_without_rounds_has_none(store: RoundStore) -> None:
    assert store.newest(RUN) is None
    assert store.released(RUN, 1) is None


def test_every_state_is_stored_with_all_of_its_content(open_store: OpenStore) -> None:
    open_store().add(FIRST)
    assert open_store().newest(RUN) == FIRST
    for before, after in ((FIRST, COLLECTED), (COLLECTED, DEBITED), (DEBITED, RELEASED)):
        assert open_store().released(RUN, 1) is None
        open_store().advance(after, expected=before.state)
        assert open_store().newest(RUN) == after
    assert open_store().released(RUN, 1) == RELEASED


def test_the_newest_attempt_is_the_last_one_of_the_last_round(store: RoundStore) -> None:
    for number in range(1, 12):
        for attempt in range(1, 12):
            store.add(replace(FIRST, round=number, attempt=attempt, state=RoundState.FAILED, cohort=()))
        last = _release(store, replace(FIRST, round=number, attempt=12))
        assert store.newest(RUN) == last
        assert store.released(RUN, number) == last


def test_runs_do_not_see_each_other(store: RoundStore) -> None:
    store.add(FIRST)
    other = replace(FIRST, run=f"{RUN}2")
    assert store.newest(other.run) is None
    store.add(other)
    store.advance(replace(other, state=RoundState.FAILED), expected=RoundState.PLANNED)
    assert store.newest(RUN) == FIRST


def test_repeated_writes_have_no_effect(store: RoundStore) -> None:
    store.add(FIRST)
    store.add(FIRST)
    for _ in range(2):
        store.advance(COLLECTED, expected=RoundState.PLANNED)
    assert store.newest(RUN) == COLLECTED


def test_all_attempts_at_a_round_are_returned_in_order(store: RoundStore) -> None:
    assert not store.attempts(RUN, 1)
    store.add(FIRST)
    failed = replace(FIRST, state=RoundState.FAILED, debit="budgets/b/debits/1")
    store.advance(failed, expected=RoundState.PLANNED)
    again = replace(FIRST, attempt=2)
    store.add(again)
    assert list(store.attempts(RUN, 1)) == [failed, again]
    assert not store.attempts(RUN, 2)
    assert not store.attempts(f"{RUN}2", 1)


@pytest.mark.parametrize(
    ("stored", "number", "attempt"),
    [
        (None, 2, 1),
        (None, 1, 2),
        (RoundState.PLANNED, 1, 2),
        (RoundState.PLANNED, 2, 1),
        (RoundState.COLLECTED, 1, 2),
        (RoundState.COLLECTED, 2, 1),
        (RoundState.RELEASED, 1, 2),
        (RoundState.RELEASED, 2, 2),
        (RoundState.RELEASED, 3, 1),
        (RoundState.FAILED, 1, 3),
        (RoundState.FAILED, 2, 1),
    ],
)
def test_attempts_come_one_after_the_other(
    store: RoundStore, stored: RoundState | None, number: int, attempt: int
) -> None:
    if stored is RoundState.RELEASED:
        _release(store, FIRST)
    elif stored is not None:
        store.add(FIRST)
        if stored is not RoundState.PLANNED:
            store.advance(replace(FIRST, state=stored), expected=RoundState.PLANNED)
    before = store.newest(RUN)
    with pytest.raises(Aborted) as caught:
        store.add(replace(FIRST, round=number, attempt=attempt))
    assert caught.value.reason == "ROUND_CONFLICT"
    assert store.newest(RUN) == before


def test_an_attempt_that_another_coordinator_planned_is_not_replaced(store: RoundStore) -> None:
    store.add(FIRST)
    with pytest.raises(Aborted) as caught:
        store.add(replace(FIRST, cohort=("SHA256:c",)))
    assert caught.value.reason == "ROUND_CONFLICT"
    assert store.newest(RUN) == FIRST


def test_an_attempt_in_another_state_is_not_replaced(store: RoundStore) -> None:
    store.add(FIRST)
    with pytest.raises(Aborted) as caught:
        store.advance(DEBITED, expected=RoundState.COLLECTED)
    assert caught.value.reason == "ROUND_CONFLICT"
    assert store.newest(RUN) == FIRST


def test_of_two_results_the_first_one_stays(store: RoundStore) -> None:
    store.add(FIRST)
    store.advance(COLLECTED, expected=RoundState.PLANNED)
    with pytest.raises(Aborted):
        store.advance(replace(COLLECTED, sealed_model="d" * 64), expected=RoundState.PLANNED)
    assert store.newest(RUN) == COLLECTED


def test_unknown_attempts_are_not_found(store: RoundStore) -> None:
    store.add(FIRST)
    for unknown in (replace(COLLECTED, attempt=2), replace(COLLECTED, round=2), replace(COLLECTED, run=f"{RUN}2")):
        with pytest.raises(NotFound) as caught:
            store.advance(unknown, expected=RoundState.PLANNED)
        assert caught.value.reason == "ROUND_NOT_FOUND"


def test_only_final_states_have_no_next_state() -> None:
    assert {state for state, following in NEXT_STATES.items() if not following} == {s for s in RoundState if s.final}
    assert set(NEXT_STATES) == set(RoundState)


def test_records_come_back_from_their_bytes() -> None:
    for record in (RoundRecord(), RELEASED.record):
        assert RoundRecord.from_bytes(record.to_bytes()) == record
    for audit in (RoundAudit(failure="too few"), RELEASED.audit):
        assert RoundAudit.from_bytes(audit.to_bytes()) == audit
