"""Rounds whose nodes add the noise: an attempt is debited before it sends a task."""

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from common.errors import Cancelled, DataLoss, FailedPrecondition, Unavailable
from deepseek.federated.flower.engine import Task, TaskReply
from deepseek.federated.rounds import RoundState
from deepseek.federated.run_plan import Sampling
from tests.deepseek.federated.private_plans import OF_EXAMPLES
from tests.deepseek.federated.simulated_nodes import changed, honest, silent
from tests.deepseek.federated.simulation import Crash, Faults, Federation

NUM_NODES, NUM_ROUNDS = 3, 3


def _federation(**plan: Any) -> Federation:
    """A federation in which each task checks that the attempt that sends it is debited."""
    federation = Federation(NUM_NODES, **{"num_rounds": NUM_ROUNDS, **OF_EXAMPLES, **plan})
    attempts: set[str] = set()

    def behave(task: Task) -> list[TaskReply]:
        attempts.add(task.task_id.rpartition(".")[0])
        assert len(federation.ledger.debits) >= len(attempts), f"{task.task_id} was sent before its debit"
        return honest(task)

    federation.engine.behaviours = dict.fromkeys(federation.nodes, behave)
    return federation


def _stop_when(federation: Federation, condition: Callable[[], object]) -> None:
    def check() -> None:
        if condition():
            raise Cancelled("CANCELLED", "the run was stopped")

    federation.check = check


def test_a_run_that_dies_anywhere_debits_each_round_once_and_before_its_tasks() -> None:
    undisturbed, faults = _federation(), Faults()
    undisturbed.run(faults)
    assert [one.state for one in undisturbed.history] == [RoundState.RELEASED] * NUM_ROUNDS
    assert {one.debit for one in undisturbed.released} == {"debits/1", "debits/2", "debits/3"}
    for crash, name in enumerate(faults.names):
        federation = _federation()
        federation.run_through(crash)
        assert federation.model == undisturbed.model, name
        assert len(federation.ledger.debits) == NUM_ROUNDS, name
        assert [one.attempt for one in federation.history] == [1] * NUM_ROUNDS, name
        assert [one.record.epsilon_spent for one in federation.released] == [1, 2, 3], name


def test_a_run_that_is_stopped_after_nodes_have_replied_keeps_its_debit() -> None:
    federation = _federation()
    _stop_when(federation, lambda: federation.engine.num_received)
    with pytest.raises(Cancelled):
        federation.run()
    (failed,) = federation.history
    assert failed.state is RoundState.FAILED
    assert (failed.debit, failed.record.epsilon_spent) == ("debits/1", 1)
    assert len(federation.ledger.debits) == 1
    assert not federation.publisher.shown


def test_a_run_that_is_stopped_before_it_has_sent_a_task_debits_nothing() -> None:
    federation = _federation()
    _stop_when(federation, lambda: federation.history)
    with pytest.raises(Cancelled):
        federation.run()
    assert [one.state for one in federation.history] == [RoundState.FAILED]
    assert not federation.engine.done
    assert not federation.ledger.debits


def test_a_collected_result_is_released_before_the_run_stops() -> None:
    federation = _federation()
    after = (RoundState.COLLECTED, RoundState.RELEASED)
    _stop_when(federation, lambda: federation.history and federation.history[-1].state in after)
    with pytest.raises(Cancelled):
        federation.run()
    assert [one.state for one in federation.history] == [RoundState.RELEASED]
    assert len(federation.ledger.debits) == 1


def test_an_attempt_that_is_repeated_debits_again() -> None:
    federation = _federation(quorum=3, max_retries=2)
    federation.engine.behaviours = {**federation.engine.behaviours, "SHA256:c": silent}
    with pytest.raises(FailedPrecondition, match="2 updates counted, and the quorum is 3"):
        federation.run()
    assert [(one.state, one.debit) for one in federation.history] == [
        (RoundState.FAILED, f"debits/{number}") for number in (1, 2, 3)
    ]
    assert len(federation.ledger.debits) == 3


def test_a_debit_before_a_crash_is_found_after_any_time_and_not_that_of_another_attempt() -> None:
    def interrupted(round_and_attempt: tuple[int, int]) -> Federation:
        federation = _federation(quorum=3, num_rounds=2)
        silent_once = federation.engine.behaviours["SHA256:c"]
        federation.engine.behaviours = {
            **federation.engine.behaviours,
            "SHA256:c": lambda task: silent_once(task) if task.task_id.startswith(("1.2", "2.")) else silent(task),
        }
        debit = federation.ledger.debit

        def dies(*args: Any, **kwargs: Any) -> Any:
            made = debit(*args, **kwargs)
            if (kwargs["round_number"], federation.history[-1].attempt) == round_and_attempt:
                raise Crash
            return made

        federation.ledger.debit = dies  # type: ignore[method-assign]
        with pytest.raises(Crash):
            federation.run()
        federation.ledger.debit = debit  # type: ignore[method-assign]
        federation.ledger.forget_requests()
        return federation

    for where in ((1, 1), (1, 2), (2, 1)):
        federation = interrupted(where)
        federation.run()
        assert [one.debit for one in federation.history] == ["debits/1", "debits/2", "debits/3"], where
        assert [one.attempt for one in federation.history] == [1, 2, 1]
        assert len(federation.ledger.debits) == 3


def test_a_retry_that_the_budget_does_not_allow_sends_nothing() -> None:
    federation = _federation(quorum=3, capacity=3)
    federation.engine.behaviours = {**federation.engine.behaviours, "SHA256:c": silent}
    with pytest.raises(FailedPrecondition, match="suffices for 2 more rounds"):
        federation.run()
    assert {task_id[:4] for task_id in federation.engine.done} == {"1.1."}


def test_an_attempt_for_which_too_few_nodes_are_online_debits_nothing() -> None:
    federation = _federation(quorum=2, max_retries=1, sampling=Sampling("uniform", num_nodes=2))
    (asked,) = {one.cohort for one in _ran_once(federation).history}
    federation = _federation(quorum=2, max_retries=1, sampling=Sampling("uniform", num_nodes=2))
    federation.engine.offline = {asked[0]}  # the third node is online, and not asked
    federation.members = set(asked)
    with pytest.raises(FailedPrecondition, match="fewer than 2 nodes were online for 60 s") as caught:
        federation.run()
    assert caught.value.reason == "QUORUM_NOT_REACHED"
    assert not federation.engine.done
    assert not federation.ledger.debits
    federation = _federation(quorum=2, max_retries=1)
    federation.members = {"SHA256:a"}
    with pytest.raises(FailedPrecondition, match="1 nodes are left to ask, and the quorum is 2"):
        federation.run()
    assert not federation.ledger.debits


def _ran_once(federation: Federation) -> Federation:
    _stop_when(federation, lambda: federation.released)
    with pytest.raises(Cancelled):
        federation.run()
    return federation


def test_a_debit_that_is_not_in_the_ledger_any_more_sends_no_task() -> None:
    federation = _federation(num_rounds=1)
    federation.engine.break_after = set(range(1, 1000))
    with pytest.raises(Unavailable):
        federation.run()
    federation.engine.break_after = set()
    num_done = federation.engine.done.total()
    assert [one.state for one in federation.history] == [RoundState.DEBITED]
    debits, federation.ledger.debits = federation.ledger.debits, {}
    with pytest.raises(DataLoss, match=r"debits/1 is not in the ledger"):
        federation.run()
    assert federation.engine.done.total() == num_done
    federation.ledger.debits = debits
    assert federation.run().state is RoundState.RELEASED
    assert len(federation.ledger.debits) == 1


def test_an_error_of_a_node_is_shown_without_what_caused_it() -> None:
    federation = _federation(num_rounds=1)
    federation.engine.behaviours = {
        "SHA256:a": changed(arrays=b"", reason="BAD_DATA", error="row 3 is 'Ana, 42'"),
        "SHA256:b": changed(arrays=b"", reason="NO_EXAMPLES", error="no row is valid"),
    }
    released = federation.run()
    assert Counter((one.reason, one.message) for one in released.record.refusals) == {("NO_UPDATE", ""): 2}
    assert [one.reason for one in released.audit.refusals] == ["CLIENT_ERROR", "NO_EXAMPLES"]
