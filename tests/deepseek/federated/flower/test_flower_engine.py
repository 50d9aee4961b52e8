"""Tasks through a real SuperLink and real SuperNodes, some of which are killed. A process of Flower takes seconds."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from common.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from deepseek.federated.flower import supernode
from deepseek.federated.flower.engine import Link, LinkBroken
from deepseek.federated.flower.flower_engine import FlowerEngine, FlowerSettings
from deepseek.federated.flower.node_keys import create_key
from deepseek.federated.flower.superlink import SuperLinkAddress
from deepseek.federated.flower.supernode import Node
from tests.deepseek.federated.flower.conftest import (
    MAX_REPLY_BYTES,
    TIMEOUT_S,
    Federation,
    answer,
    pids_of,
    task,
)
from tests.harness.processes import wait_until

pytestmark = pytest.mark.timeout(600)


def test_a_node_answers_tasks(federation: Federation, link: Link) -> None:
    node_id = federation.node_ids["ana"]
    link.send(task(node_id, "first", {"run": "r", "round": 1, "loss": 0.25}))
    reply = answer(link)
    assert (reply.task_id, reply.node_id, reply.reason, reply.error) == ("first", node_id, "", "")
    np.testing.assert_array_equal(safetensors.numpy.load(reply.arrays)["w"], np.arange(4, dtype=np.float32) + 1)
    assert (reply.num_examples, reply.train_s, reply.load_s) == (8, 0.25, 0.125)
    assert reply.metrics["loss"] == 0.25
    # The node's worker stays: it counts its requests.
    link.send(task(node_id, "second", {"run": "r", "round": 2}, kind="evaluate"))
    assert answer(link).metrics["requests"] == reply.metrics["requests"] + 1


def test_a_failure_of_the_worker_has_its_reason(federation: Federation, link: Link) -> None:
    link.send(task(federation.node_ids["ana"], "failing", {"fail": True}))
    reply = answer(link)
    assert (reply.reason, reply.error, reply.arrays) == ("NO_EXAMPLES", "the node has no examples", b"")


def test_a_reply_over_the_limit_is_refused(federation: Federation, link: Link) -> None:
    node_id = federation.node_ids["ana"]
    link.send(task(node_id, "large", {"reply_bytes": MAX_REPLY_BYTES + 1}))
    reply = answer(link)
    assert (reply.reason, reply.arrays) == ("OVERSIZED", b"")
    assert f"the limit is {MAX_REPLY_BYTES}" in reply.error
    link.send(task(node_id, "largest", {"reply_bytes": MAX_REPLY_BYTES}))
    assert len(answer(link).arrays) == MAX_REPLY_BYTES


def test_a_killed_server_app_breaks_the_link_and_the_task_can_be_sent_again(
    federation: Federation, tmp_path: Path
) -> None:
    node_id, until = federation.node_ids["ana"], tmp_path / "go"
    first = federation.engine.open_run("restarted", MAX_REPLY_BYTES)
    first.send(task(node_id, "t", {"until": str(until)}))
    (pid,) = pids_of("flwr-serverapp", federation.engine.address)
    os.kill(pid, signal.SIGKILL)
    with pytest.raises(LinkBroken, match="its ServerApp ended"):
        first.receive(TIMEOUT_S)
    with pytest.raises(LinkBroken):
        first.send(task(node_id, "t"))
    until.touch()
    second = federation.engine.open_run("restarted", MAX_REPLY_BYTES)
    assert second.flower_run_id != first.flower_run_id
    second.send(task(node_id, "t", {"until": str(until)}))
    assert answer(second).task_id == "t"
    second.close()
    with pytest.raises(FailedPrecondition, match="is closed"):
        second.send(task(node_id, "t"))


def test_a_killed_superlink_breaks_the_link_and_is_started_again(federation: Federation) -> None:
    node_id, link = federation.node_ids["ana"], federation.engine.open_run("superlink", MAX_REPLY_BYTES)
    superlink = federation.engine.superlink
    assert superlink is not None
    address = federation.engine.address
    os.kill(superlink.pid, signal.SIGKILL)
    with pytest.raises(LinkBroken, match="Flower run"):
        link.receive(TIMEOUT_S)
    link = federation.engine.open_run("superlink", MAX_REPLY_BYTES)
    assert federation.engine.address == address
    link.send(task(node_id, "t"))
    assert answer(link).node_id == node_id
    link.close()


def test_a_killed_supernode_gets_its_task_again(federation: Federation, link: Link, tmp_path: Path) -> None:
    node, until, started = federation.nodes["ana"], tmp_path / "go", tmp_path / "started"
    link.send(task(federation.node_ids["ana"], "t", {"until": str(until), "started": str(started)}))
    wait_until(started.exists, "the worker to start on the task", timeout_s=TIMEOUT_S)
    os.kill(node.pid, signal.SIGKILL)
    node.restart()
    until.touch()
    assert answer(link).error == ""
    # The worker ended with the SuperNode, so another one answered.
    link.send(task(federation.node_ids["ana"], "u"))
    assert answer(link).metrics["requests"] == 2


def test_a_task_waits_for_a_node_that_is_offline(federation: Federation, link: Link) -> None:
    node = federation.nodes["ana"]
    os.kill(node.pid, signal.SIGTERM)
    node.wait(TIMEOUT_S)
    wait_until(lambda: not federation.online("ana"), "the end of the node")
    link.send(task(federation.node_ids["ana"], "t"))
    assert link.receive(3) is None
    node.restart()
    assert answer(link).error == ""


def test_a_node_answers_without_the_process_that_starts_its_client_apps(federation: Federation, link: Link) -> None:
    pid = federation.nodes["ana"].preload_pid
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    link.send(task(federation.node_ids["ana"], "t"))
    assert answer(link).error == ""


def test_a_cancelled_task_gets_no_reply(federation: Federation, link: Link, tmp_path: Path) -> None:
    node_id, until = federation.node_ids["ana"], tmp_path / "go"
    link.send(task(node_id, "cancelled", {"until": str(until)}))
    link.cancel(["cancelled", "unknown"])
    until.touch()
    link.send(task(node_id, "next"))
    assert answer(link).task_id == "next"


def test_an_unregistered_key_is_refused(federation: Federation) -> None:
    config = federation.config("mallory")
    node = Node(config)
    try:
        assert node.wait(TIMEOUT_S) == 1
        assert node.refused
        assert "Exit Code: 305" in node.log_file.read_text()
        assert node.node_id is None
    finally:
        node.stop()
    assert len(federation.engine.nodes()) == 1


def test_a_node_that_is_refused_says_so(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supernode, "_REFUSED_S", -1.0)
    with pytest.raises(FailedPrecondition, match="register its public key") as caught:
        supernode.run_node(federation.config("eve"), report=print)
    assert caught.value.reason == "NODE_REFUSED"


def test_a_node_that_is_removed_says_so(federation: Federation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supernode, "_REFUSED_S", -1.0)
    config, lines = federation.config("peggy"), list[str]()
    assert config.private_key is not None
    node_id = federation.engine.register_node(Path(f"{config.private_key}.pub").read_bytes())
    federation.node_ids["peggy"] = node_id
    with ThreadPoolExecutor(1) as threads:
        ended = threads.submit(supernode.run_node, config, report=lines.append)
        wait_until(lambda: federation.online("peggy"), "the node peggy", timeout_s=TIMEOUT_S)
        federation.engine.unregister_node(node_id)
        try:  # the SuperNode ends with status 0 or 305, depending on which of its calls is refused first
            ended.result(TIMEOUT_S)
        except FailedPrecondition as error:
            lines.append(error.message)
    assert "the node was removed" in lines[-1]


def test_a_node_that_cannot_start_says_so(federation: Federation) -> None:
    config = federation.config("trudy")
    lost = SuperLinkAddress(federation.engine.address, federation.folder / "missing.pem")
    with pytest.raises(FailedPrecondition, match=r"see .*supernode.log") as caught:
        supernode.run_node(replace(config, superlink=lost, preload=False), report=print)
    assert caught.value.reason == "NODE_ENDED"


def test_an_external_superlink_can_be_used(federation: Federation, tmp_path: Path) -> None:
    address = SuperLinkAddress(federation.engine.address, federation.engine.root_certificates)
    other = FlowerEngine(FlowerSettings(tmp_path, external=address))
    try:
        assert other.nodes() == federation.engine.nodes()
        assert other.superlink is None
        with other.open_run("external", MAX_REPLY_BYTES) as link:
            link.send(task(federation.node_ids["ana"], "t"))
            assert answer(link).error == ""
    finally:
        other.close()


def test_a_superlink_whose_server_apps_run_elsewhere_is_refused(federation: Federation, tmp_path: Path) -> None:
    address = SuperLinkAddress(federation.engine.address, federation.engine.root_certificates)
    other = FlowerEngine(FlowerSettings(tmp_path / "home", external=address))
    try:
        for path in (tmp_path / "home").glob("*.sock"):
            path.unlink()  # on another machine, the ServerApp would not find it either
        with pytest.raises(FailedPrecondition, match="does not run its ServerApps on this machine") as caught:
            other.open_run("elsewhere", MAX_REPLY_BYTES)
        assert caught.value.reason == "RELAY_ELSEWHERE"
    finally:
        other.close()


def test_a_key_is_registered_once_and_never_again_after_its_node_was_removed(
    federation: Federation, tmp_path: Path
) -> None:
    key = create_key(tmp_path / "bob")
    public = (tmp_path / "bob.pub").read_bytes()
    node_id = federation.engine.register_node(public)
    assert federation.engine.register_node(public) == node_id
    known = {node.fingerprint: node for node in federation.engine.nodes()}
    assert known[key.fingerprint].node_id == node_id
    assert not known[key.fingerprint].online
    assert [node.fingerprint for node in federation.engine.nodes()] == sorted(known)
    federation.engine.unregister_node(node_id)
    federation.engine.unregister_node(node_id)
    assert key.fingerprint not in {node.fingerprint for node in federation.engine.nodes()}
    with pytest.raises(AlreadyExists, match="create a new key") as caught:
        federation.engine.register_node(public)
    assert caught.value.reason == "NODE_KEY_IN_USE"


@pytest.mark.parametrize("run_key", ["", "x" * 64])
def test_a_run_key_has_a_sensible_length(federation: Federation, run_key: str) -> None:
    with pytest.raises(InvalidArgument, match="run key"):
        federation.engine.open_run(run_key, MAX_REPLY_BYTES)
