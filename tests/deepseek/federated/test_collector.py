"""Rounds over nodes that are slow or die, and a transport that breaks."""

from collections import Counter

import pytest

from common.errors import Unavailable
from deepseek.federated.arrays import max_bytes
from deepseek.federated.collection import LOST_REASONS, MAX_LOST
from deepseek.federated.collector import MAX_LINKS
from deepseek.federated.flower.engine import Task, TaskReply
from deepseek.federated.patience import MAX_OUTAGE_S
from deepseek.federated.rounds import MAX_REFUSALS, Round, RoundState
from deepseek.federated.run_plan import Sampling
from tests.deepseek.federated.simulated_nodes import changed, honest
from tests.deepseek.federated.simulation import POISSON, PRIVACY, Federation


def _reasons(one: Round) -> dict[str, str]:
    return {refusal.node: refusal.reason for refusal in one.audit.refusals}


def test_a_round_closes_at_the_deadline_with_quorum() -> None:
    federation = Federation(4, num_rounds=1, quorum=3)
    federation.engine.offline = {"SHA256:d"}
    released = federation.run()
    assert released.audit.counted == ("SHA256:a", "SHA256:b", "SHA256:c")
    assert _reasons(released) == {"SHA256:d": "LATE"}
    assert released.audit.collect_s == pytest.approx(60)
    assert federation.engine.cancelled == ["1.1.SHA256:d"]


def test_a_late_update_is_refused_in_the_round_in_which_it_arrives() -> None:
    federation = Federation(3, quorum=2, num_rounds=2, sampling=Sampling("all"))
    federation.engine.delays = {"SHA256:c": 61.0}
    federation.run()
    assert [refusal.reason for refusal in federation.history[0].audit.refusals] == ["LATE"]
    second = [(refusal.reason, refusal.message) for refusal in federation.history[1].audit.refusals]
    assert second == [
        ("LATE", "the reply is for round 1, and round 2 is in progress"),
        ("LATE", "the node did not reply within 60 s"),
    ]


def test_a_broken_link_is_replaced_and_only_missing_nodes_are_asked_again() -> None:
    undisturbed = Federation(4)
    undisturbed.run()
    for break_after in range(1, 12):
        federation = Federation(4)
        federation.engine.break_after = {break_after}
        federation.run()
        assert federation.model == undisturbed.model
        assert federation.engine.num_links == 2
        # The reply at which the link broke is lost, and so are those that had not been received.
        assert sum(federation.engine.done.values()) == 12 + (4 - (break_after - 1) % 4)


def test_a_link_accepts_no_larger_replies_than_the_model_needs() -> None:
    federation = Federation(2, num_rounds=1)
    federation.run()
    assert federation.engine.max_reply_bytes == max_bytes(federation.plan.shapes)


def test_links_are_kept_from_round_to_round() -> None:
    federation = Federation(4, num_rounds=5)
    federation.run()
    assert federation.engine.num_links == 1


def test_a_transport_that_is_down_is_awaited_for_a_while() -> None:
    federation = Federation(2)
    federation.engine.down_until = federation.clock.now + MAX_OUTAGE_S / 2
    federation.run()
    federation = Federation(2)
    federation.engine.down_until = federation.clock.now + 2 * MAX_OUTAGE_S
    with pytest.raises(Unavailable, match="has not started for 600 s") as caught:
        federation.run()
    assert caught.value.reason == "ENGINE_UNAVAILABLE"
    assert federation.history[-1].state is RoundState.PLANNED
    federation.clock.now += 2 * MAX_OUTAGE_S
    federation.run()
    assert len(federation.released) == 3


def test_the_time_in_which_a_transport_is_down_does_not_count_as_that_of_nodes() -> None:
    federation = Federation(4, num_rounds=1, sampling=POISSON, privacy=PRIVACY, quorum=2, deadline_s=5.0)
    federation.engine.down_until = federation.clock.now + 100
    assert federation.run().attempt == 1
    federation = Federation(4, num_rounds=1, sampling=POISSON, privacy=PRIVACY, quorum=2, deadline_s=5.0)
    federation.engine.down_until = federation.clock.now + 2 * MAX_OUTAGE_S
    with pytest.raises(Unavailable, match="the SuperLink is starting"):
        federation.run()
    assert not federation.history


def test_a_transport_that_always_breaks_ends_the_attempt_to_execute_the_run() -> None:
    federation = Federation(2)
    federation.engine.break_after = set(range(1, 1000))
    with pytest.raises(Unavailable, match=f"ended early {MAX_LINKS} times in a row"):
        federation.run()


def test_a_node_whose_task_was_lost_is_asked_again() -> None:
    attempts: Counter[str] = Counter()

    def loses_two(task: Task) -> list[TaskReply]:
        attempts[task.task_id] += 1
        if attempts[task.task_id] > 2:
            return honest(task)
        return [TaskReply(task.task_id, task.node_id, reason=min(LOST_REASONS), error="killed")]

    undisturbed, federation = Federation(3), Federation(3)
    federation.engine.behaviours = {"SHA256:b": loses_two}
    undisturbed.run()
    federation.run()
    assert federation.model == undisturbed.model
    assert all(one.audit.num_resent == 2 and not one.audit.refusals for one in federation.history)


def test_a_node_that_loses_every_task_is_refused_after_a_few_attempts() -> None:
    def loses_all(task: Task) -> list[TaskReply]:
        return [TaskReply(task.task_id, task.node_id, reason="WORKER_DIED", error="out of memory")]

    federation = Federation(3, num_rounds=1)
    federation.engine.behaviours = {"SHA256:b": loses_all}
    released = federation.run()
    assert released.audit.num_resent == MAX_LOST
    assert [(one.node, one.reason, one.message) for one in released.audit.refusals] == [
        ("SHA256:b", "CLIENT_ERROR", "WORKER_DIED: out of memory")
    ]
    assert released.audit.collect_s < 20


def test_a_task_that_expires_is_late() -> None:
    federation = Federation(3, num_rounds=1)
    federation.engine.behaviours = {"SHA256:b": changed(arrays=b"", reason="EXPIRED", error="no answer in time")}
    federation.engine.delays = {"SHA256:b": 59.5}
    released = federation.run()
    assert _reasons(released) == {"SHA256:b": "LATE"}


def test_a_second_reply_of_a_node_that_was_asked_twice_is_not_refused() -> None:
    attempts: Counter[str] = Counter()

    def loses_one(task: Task) -> list[TaskReply]:
        attempts[task.task_id] += 1
        if attempts[task.task_id] > 1:
            return honest(task) * 2
        return [TaskReply(task.task_id, task.node_id, reason=min(LOST_REASONS), error="killed")]

    federation = Federation(3, num_rounds=1)
    federation.engine.behaviours = {"SHA256:b": loses_one}
    federation.engine.delays = {"SHA256:c": 40.0}
    released = federation.run()
    assert len(released.audit.counted) == 3
    assert not released.audit.refusals
    assert released.audit.num_resent == 1


def test_a_node_can_cause_any_number_of_refusals_but_not_fill_the_record() -> None:
    federation = Federation(2, num_rounds=1)
    federation.engine.behaviours = {"SHA256:a": lambda task: honest(task) * 5000}
    federation.engine.delays = {"SHA256:b": 2.0}
    released = federation.run()
    assert len(released.audit.refusals) == MAX_REFUSALS
    assert released.audit.num_refusals == 4999
    assert len(released.audit.counted) == 2
