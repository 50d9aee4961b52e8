"""Greetings bring nodes that are one reply behind back into step."""

from typing import Any

import pytest
from flwr.app import MessageType

from deepseek.federated.flower import greetings
from deepseek.federated.flower.engine import Task
from deepseek.federated.flower.relay import RelayLink
from tests.deepseek.federated.flower.stand_ins import TIMEOUT_S, SuperNode, honest, replies
from tests.harness.processes import wait_until


@pytest.fixture(autouse=True)
def short_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greetings, "_AGAIN_S", (0.3, 1.0, 2.0, 4.0))
    monkeypatch.setattr(greetings, "_ALIGN_S", 0.5)


def send(link: RelayLink, node_id: int, task_id: str) -> None:
    link.send(Task(task_id, node_id, "fit", {"round": 2}, b"model", 60))


@pytest.mark.parametrize("num_owed", [0, 1, 2])
def test_a_node_that_owes_replies_of_earlier_runs_answers_all_tasks(
    connect: Any, num_owed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if num_owed == 0:  # a slow machine must not send a second pair
        monkeypatch.setattr(greetings, "_AGAIN_S", (20.0,))
    link, nodes = connect({1: SuperNode(num_owed), 2: honest})
    assert replies(link, 2) == {1: "", 2: ""}
    num_greetings = len(nodes.superlink.greeted)
    assert num_greetings == 2 if num_owed == 0 else num_greetings > 2
    for number in range(3):
        send(link, 1, f"another {number}")
        assert replies(link, 1) == {1: ""}
    assert len(nodes.superlink.greeted) == num_greetings, "it is in step"


def test_a_node_is_greeted_before_its_first_task_only(connect: Any) -> None:
    link, nodes = connect({1: honest})
    assert replies(link, 1) == {1: ""}
    send(link, 1, "another")
    assert replies(link, 1) == {1: ""}
    assert [message.metadata.message_type for message in nodes.superlink.greeted.values()] == [MessageType.QUERY]


def test_a_node_whose_task_was_cancelled_is_greeted_again(connect: Any) -> None:
    asked: list[str] = []
    link, nodes = connect({1: lambda message: asked.append(message.metadata.message_id)})
    wait_until(lambda: asked, "the task")
    link.cancel(["task of 1"])
    send(link, 1, "another")
    wait_until(lambda: len(nodes.superlink.sent) == 2, "the other task")
    assert len(nodes.superlink.greeted) == 2


def test_a_node_that_answers_no_greeting_gets_its_task_in_the_end(
    connect: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(greetings, "GIVE_UP_S", 1.5)
    _, nodes = connect({1: SuperNode(is_silent=True)})
    wait_until(lambda: nodes.superlink.sent, "the task", timeout_s=TIMEOUT_S)
    assert len(nodes.superlink.greeted) == 5


def test_a_node_that_was_restarted_needs_no_greeting(connect: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(greetings, "_AGAIN_S", ())
    _, nodes = connect({1: SuperNode(is_silent=True)})
    wait_until(lambda: nodes.superlink.greeted, "the greeting")
    assert not nodes.superlink.sent
    nodes.activated_at = "later"
    wait_until(lambda: nodes.superlink.sent, "the task")
