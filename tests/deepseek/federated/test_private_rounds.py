"""Rounds with a privacy budget: their debits, and what a stop or a crash leaves."""

from dataclasses import replace
from typing import Any

import pytest

from common.errors import Cancelled, DataLoss, DeadlineExceeded, FailedPrecondition, MeshError, Unavailable
from deepseek.federated.rounds import RoundState
from tests.deepseek.federated.simulation import POISSON, PRIVACY, Federation


def test_stopping_fails_the_current_round_and_debits_nothing() -> None:
    federation = Federation(4, sampling=POISSON, privacy=PRIVACY, quorum=0)
    calls = 0

    def check() -> None:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise Cancelled("CANCELLED", "the run was stopped")

    federation.check = check
    with pytest.raises(Cancelled):
        federation.run()
    assert federation.history[-1].state is RoundState.FAILED
    assert not federation.ledger.debits
    assert not federation.publisher.shown


def test_a_result_that_is_debited_is_released_before_the_run_stops() -> None:
    federation = Federation(4, sampling=POISSON, privacy=PRIVACY, quorum=0)
    original = federation.ledger.debit

    def stop_after_debit(*args: Any, **kwargs: Any) -> Any:
        def check() -> None:
            raise Cancelled("CANCELLED", "the run was stopped")

        federation.check = check
        return original(*args, **kwargs)

    federation.ledger.debit = stop_after_debit  # type: ignore[method-assign]
    with pytest.raises(Cancelled):
        federation.run()
    assert [one.state for one in federation.history] == [RoundState.RELEASED]
    assert len(federation.ledger.debits) == 1


@pytest.mark.parametrize("error", [Unavailable, DeadlineExceeded, Cancelled])
def test_a_debit_whose_answer_is_lost_is_asked_for_again(error: type[MeshError]) -> None:
    federation = Federation(4, sampling=POISSON, privacy=PRIVACY, quorum=0)
    _lose_answers(federation, 3, error)
    assert federation.run().round == 3
    assert [one.state for one in federation.history] == [RoundState.RELEASED] * 3
    assert len(federation.ledger.debits) == 3


def test_a_ledger_that_never_answers_ends_the_attempt_but_neither_the_round_nor_the_run() -> None:
    federation = Federation(4, sampling=POISSON, privacy=PRIVACY, quorum=0)
    original = _lose_answers(federation, 10_000, Cancelled)
    with pytest.raises(Unavailable):
        federation.run()
    assert [one.state for one in federation.history] == [RoundState.COLLECTED]
    federation.ledger.debit = original  # type: ignore[method-assign]
    federation.run()
    assert [one.attempt for one in federation.history] == [1, 1, 1]
    assert len(federation.ledger.debits) == 3


def test_a_debit_whose_answer_was_lost_is_found_after_any_time() -> None:
    federation = Federation(4, capacity=3, sampling=POISSON, privacy=PRIVACY, quorum=0)
    original = _lose_answers(federation, 10_000, Unavailable)
    with pytest.raises(Unavailable):
        federation.run()
    federation.ledger.debit = original  # type: ignore[method-assign]
    federation.ledger.forget_requests()
    federation.run()
    assert [(one.state, one.attempt, one.debit) for one in federation.history] == [
        (RoundState.RELEASED, 1, f"debits/{number}") for number in (1, 2, 3)
    ]


def test_a_run_that_is_stopped_while_a_debit_is_not_answered_releases_what_was_debited() -> None:
    federation = Federation(4, sampling=POISSON, privacy=PRIVACY, quorum=0)

    def check() -> None:
        if federation.ledger.debits:
            raise Cancelled("CANCELLED", "the run was stopped")

    federation.check = check
    _lose_answers(federation, 3, DeadlineExceeded)
    with pytest.raises(Cancelled):
        federation.run()
    assert [one.state for one in federation.history] == [RoundState.RELEASED]
    assert len(federation.ledger.debits) == 1


def test_a_run_that_is_stopped_after_a_crash_releases_what_may_be_debited() -> None:
    federation = Federation(4, sampling=POISSON, privacy=PRIVACY, quorum=0)
    original = _lose_answers(federation, 10_000, Unavailable)
    with pytest.raises(Unavailable):
        federation.run()
    federation.ledger.debit = original  # type: ignore[method-assign]

    def check() -> None:
        raise Cancelled("CANCELLED", "the run was stopped")

    federation.check = check
    with pytest.raises(Cancelled):
        federation.run()
    assert [one.state for one in federation.history] == [RoundState.RELEASED]
    assert len(federation.ledger.debits) == 1


def test_a_run_that_is_stopped_while_its_debit_is_refused_releases_nothing() -> None:
    federation = Federation(4, sampling=POISSON, privacy=PRIVACY, quorum=0)

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise FailedPrecondition("BUDGET_EXHAUSTED", "it is spent")

    federation.ledger.debit = refuse  # type: ignore[method-assign]
    with pytest.raises(FailedPrecondition):
        federation.run()
    assert [one.state for one in federation.history] == [RoundState.FAILED]


def _lose_answers(federation: Federation, number: int, error: type[MeshError]) -> Any:
    """Lets the ledger debit without an answer a number of times; returns how it debits otherwise."""
    original = federation.ledger.debit
    left = number

    def debit(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        result = original(*args, **kwargs)
        left -= 1
        if left >= 0:
            raise error("NO_ANSWER", "the ledger takes too long")
        return result

    federation.ledger.debit = debit  # type: ignore[method-assign]
    return original


def test_a_process_that_shuts_down_does_not_wait_for_services() -> None:
    class Stopping(Exception):
        """The process shuts down."""

    federation = Federation(4, sampling=POISSON, privacy=PRIVACY, quorum=0)
    federation.publisher.publish = _raise_unavailable  # type: ignore[method-assign]
    start = federation.clock.now

    def check() -> None:
        if federation.history and federation.history[-1].state is RoundState.DEBITED:
            raise Stopping

    federation.check = check
    with pytest.raises(Stopping):
        federation.run()
    assert federation.clock.now < start + federation.plan.deadline_s + 30
    assert federation.history[-1].state is RoundState.DEBITED


def test_a_run_that_is_stopped_between_debit_and_release_waits_for_services() -> None:
    federation = Federation(4, sampling=POISSON, privacy=PRIVACY, quorum=0)
    original = federation.publisher.publish
    failures = 5

    def unavailable_at_first(*args: Any) -> Any:
        nonlocal failures
        failures -= 1
        return _raise_unavailable() if failures else original(*args)

    def check() -> None:
        if federation.history and federation.history[-1].state in (RoundState.DEBITED, RoundState.RELEASED):
            raise Cancelled("CANCELLED", "the run was stopped")

    federation.publisher.publish = unavailable_at_first  # type: ignore[method-assign]
    federation.check = check
    with pytest.raises(Cancelled):
        federation.run()
    assert [one.state for one in federation.history] == [RoundState.RELEASED]


def test_a_run_that_would_exceed_the_budget_never_starts_a_round() -> None:
    federation = Federation(4, capacity=2, sampling=POISSON, privacy=PRIVACY, quorum=0)
    with pytest.raises(FailedPrecondition, match=r"suffices for 2 more rounds .* 3 are needed") as caught:
        federation.run()
    assert caught.value.reason == "BUDGET_EXHAUSTED"
    assert not federation.history
    assert not federation.engine.done
    assert not federation.ledger.debits


def test_a_budget_that_another_run_spends_meanwhile_releases_nothing_more() -> None:
    federation = Federation(4, capacity=3, sampling=POISSON, privacy=PRIVACY, quorum=0)
    original = federation.ledger.debit

    def spend_all(*args: Any, **kwargs: Any) -> Any:
        if federation.ledger.debits:
            federation.ledger.capacity = 1
        return original(*args, **kwargs)

    federation.ledger.debit = spend_all  # type: ignore[method-assign]
    with pytest.raises(FailedPrecondition, match="is spent") as caught:
        federation.run()
    assert caught.value.field == "privacy.budget"
    assert [one.state for one in federation.history] == [RoundState.RELEASED, RoundState.FAILED]
    assert [number for number, _ in federation.publisher.shown] == [1]


def test_a_round_starts_only_if_the_budget_suffices_for_all_that_are_left() -> None:
    federation = Federation(4, num_rounds=4, capacity=5, sampling=POISSON, privacy=PRIVACY, quorum=0)
    original = federation.publisher.publish

    def spend(*args: Any) -> Any:
        federation.ledger.capacity = 3  # another run debits twice during the first round
        return original(*args)

    federation.publisher.publish = spend  # type: ignore[method-assign]
    with pytest.raises(FailedPrecondition, match=r"suffices for 2 more rounds .* 3 are needed") as caught:
        federation.run()
    assert (caught.value.reason, caught.value.field) == ("BUDGET_EXHAUSTED", "privacy.budget")
    assert [one.state for one in federation.history] == [RoundState.RELEASED]


def test_a_sealed_result_that_was_lost_is_replaced_and_debited_again() -> None:
    federation = Federation(4, num_rounds=1, sampling=POISSON, privacy=PRIVACY, quorum=0)
    original = federation.publisher.publish
    federation.publisher.publish = _raise_unavailable  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        federation.run()
    debited = federation.history[-1]
    assert debited.state is RoundState.DEBITED
    del federation.vault.blobs[debited.sealed_model]
    federation.publisher.publish = original  # type: ignore[method-assign]
    federation.run()
    assert [one.state for one in federation.history] == [RoundState.FAILED, RoundState.RELEASED]
    assert len(federation.ledger.debits) == 2


@pytest.mark.parametrize("sealed", ["0" * 64, "", None])
def test_a_stored_result_is_not_released_if_the_ledger_has_debited_another_one(sealed: str | None) -> None:
    federation = Federation(4, num_rounds=1, sampling=POISSON, privacy=PRIVACY, quorum=0)
    original = federation.publisher.publish
    federation.publisher.publish = _raise_unavailable  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        federation.run()
    federation.publisher.publish = original  # type: ignore[method-assign]
    ((request_id, debit),) = federation.ledger.debits.items()
    federation.ledger.debits = {request_id: replace(debit, sealed_sha256=sealed)} if sealed is not None else {}
    with pytest.raises(DataLoss, match=r"restore both from the same backup") as caught:
        federation.run()
    assert (caught.value.reason, caught.value.field) == ("RESULT_MISMATCH", "privacy.budget")
    assert not federation.publisher.shown
    assert [one.state for one in federation.history] == [RoundState.DEBITED]
    federation.ledger.debits = {request_id: debit}
    federation.run()
    assert [one.state for one in federation.history] == [RoundState.RELEASED]


def test_a_repeated_debit_of_another_result_releases_nothing() -> None:
    federation = Federation(4, num_rounds=1, sampling=POISSON, privacy=PRIVACY, quorum=0)
    original = federation.ledger.debit
    federation.ledger.debit = lambda *args, **kwargs: replace(original(*args, **kwargs), sealed_sha256="0" * 64)  # type: ignore[method-assign]
    with pytest.raises(DataLoss) as caught:
        federation.run()
    assert caught.value.reason == "RESULT_MISMATCH"
    assert not federation.publisher.shown
    assert [one.state for one in federation.history] == [RoundState.COLLECTED]


def _raise_unavailable(*args: Any) -> Any:
    raise Unavailable("REGISTRY_UNREACHABLE", "the registry does not respond")
