"""Nodes that cannot take part are found before the first round."""

from collections import Counter
from dataclasses import replace
from typing import Any

import pytest

from common.errors import FailedPrecondition, plain_text
from deepseek.federated.flower.engine import Task, TaskReply
from deepseek.federated.rounds import RoundState
from deepseek.federated.run_plan import RunPrivacy, Sampling
from deepseek.privacy.releases import Release
from tests.deepseek.federated.simulated_nodes import Behaviour, honest, silent
from tests.deepseek.federated.simulation import PRIVACY, Federation


def _checked(num_examples: int = 5, **failure: str) -> Behaviour:
    """Replies to a check as given, and trains honestly."""

    def behave(task: Task) -> list[TaskReply]:
        if task.kind == "fit":
            return honest(task)
        assert task.config["check"] is True
        return [TaskReply(task.task_id, task.node_id, num_examples=num_examples, **failure)]

    return behave


READY = _checked()
OLD = _checked(0, reason="WRONG_VERSION", error="the client app has the version 1; update it")
NO_LABEL = _checked(0, reason="MISSING_FIELD", error="no column 'label' in row 'Ana, 42'")
EMPTY = _checked(0)


def _federation(*behaviours: Behaviour, **plan: Any) -> Federation:
    federation = Federation(len(behaviours), **{"num_rounds": 2, "check_nodes": True, **plan})
    federation.engine.behaviours = dict(zip(federation.nodes, behaviours, strict=True))
    return federation


def test_ready_nodes_are_asked_once_and_trained_on() -> None:
    federation = _federation(READY, READY, READY)
    federation.run()
    assert Counter(task_id.split(".")[0] for task_id in federation.engine.done) == {"check": 3, "1": 3, "2": 3}
    assert not federation.warnings
    assert federation.engine.num_links == 1


def test_a_run_without_enough_ready_nodes_fails_before_its_first_round() -> None:
    federation = _federation(OLD, EMPTY, NO_LABEL)
    with pytest.raises(FailedPrecondition) as caught:
        federation.run()
    assert (caught.value.reason, caught.value.field) == ("NODES_NOT_READY", "quorum")
    assert caught.value.message == (
        "3 of 3 nodes cannot take part; fix or remove them: "
        "SHA256:a: WRONG_VERSION: the client app has the version 1; update it; "
        "SHA256:b: NO_EXAMPLES: the node has no examples; check its data source; "
        "SHA256:c: MISSING_FIELD: no column 'label' in row 'Ana, 42'"
    )
    assert not federation.history


def test_the_quorum_decides_how_many_nodes_must_be_ready() -> None:
    with pytest.raises(FailedPrecondition, match="1 of 3 nodes cannot take part"):
        _federation(READY, READY, EMPTY, quorum=3).run()
    federation = _federation(READY, READY, EMPTY, quorum=2)
    federation.run()
    assert federation.warnings == [
        (
            "NODE_NOT_READY",
            "a node cannot take part until its problem is fixed. SHA256:c: NO_EXAMPLES: the node has no examples; "
            "check its data source",
        )
    ]


def test_a_private_run_whose_nodes_all_fail_debits_nothing_and_quotes_no_node() -> None:
    privacy = RunPrivacy("client", PRIVACY.budget, Release(1.0, 0.5))
    federation = _federation(NO_LABEL, NO_LABEL, privacy=privacy, sampling=Sampling("poisson", rate=0.5), quorum=0)
    with pytest.raises(FailedPrecondition, match=r"them: SHA256:a: MISSING_FIELD; SHA256:b: MISSING_FIELD \["):
        federation.run()
    assert not federation.ledger.debits
    assert not federation.history


HOSTILE = _checked(0, reason="\x1b[31mPAY ANA" + "x" * 200, error="\x1b]0;title\x07" + "y" * 5000)


@pytest.mark.parametrize("private", [False, True])
def test_the_text_of_a_hostile_node_is_bounded_and_plain(private: bool) -> None:
    privacy = RunPrivacy("client", PRIVACY.budget, Release(1.0)) if private else None
    federation = _federation(READY, READY, HOSTILE, privacy=privacy, quorum=1)
    federation.run()
    ((reason, text),) = federation.warnings
    assert reason == "NODE_NOT_READY"
    said = text.partition("SHA256:c: ")[2]
    assert said.startswith("CLIENT_ERROR")
    assert len(said) < 1100
    assert plain_text(text) == text
    if private:
        assert said == "CLIENT_ERROR"


def test_nodes_that_are_offline_or_silent_may_still_take_part() -> None:
    federation = _federation(READY, silent, EMPTY, quorum=1)
    federation.engine.offline = {"SHA256:a"}
    federation.engine.behaviours = {**federation.engine.behaviours, "SHA256:b": silent}
    original = federation.engine.nodes

    def come_online() -> Any:
        found = original()
        federation.engine.offline = set()
        return found

    federation.engine.nodes = come_online  # type: ignore[method-assign]
    federation.run()
    assert [one.audit.counted for one in federation.released] == [("SHA256:a", "SHA256:c")] * 2
    assert federation.engine.cancelled == ["check.SHA256:b", "1.1.SHA256:b", "2.1.SHA256:b"]


def test_a_check_continues_after_a_broken_link() -> None:
    federation = _federation(READY, EMPTY, READY)
    federation.engine.break_after = {2}
    federation.run()
    assert [reason for reason, _ in federation.warnings] == ["NODE_NOT_READY"]
    assert federation.engine.num_links == 2


def test_a_run_that_has_begun_does_not_check_its_nodes_again() -> None:
    federation = _federation(READY, READY)
    federation.run()
    federation.plan = replace(federation.plan, num_rounds=3)
    federation.engine.behaviours = dict.fromkeys(federation.nodes, EMPTY)
    assert federation.run().state is RoundState.RELEASED
