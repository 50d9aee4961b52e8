"""The coordinator's end of a relay, with a real gRPC client in the place of the ServerApp, and hostile replies."""

import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, cast

import grpc
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from flwr.serverapp import Grid

from common.errors import FailedPrecondition, InvalidArgument
from common.unix_sockets import short_name
from deepseek.federated.flower import relay, relay_app
from deepseek.federated.flower.client_app import ERROR, METRICS, UPDATE, WORK, opaque
from deepseek.federated.flower.engine import LinkBroken, Task
from deepseek.federated.flower.fab import ELSEWHERE
from deepseek.federated.flower.relay import RelayLink, RelayServer
from deepseek.federated.flower.reply_content import result_of
from protos.federated.v1 import relay_pb2, relay_pb2_grpc

TIMEOUT_S = 20.0


def no_grid() -> Grid:
    """Access to the nodes for a relay that never sends a task."""
    return cast(Grid, None)


class ServerApp:
    """The other end of the stream."""

    def __init__(self, server: RelayServer, run_id: int) -> None:
        self._name = short_name(server.socket)
        self._channel = grpc.insecure_channel(f"unix:{self._name.__enter__()}", options=relay.GRPC_OPTIONS)
        self._up: queue.SimpleQueue[relay_pb2.ExchangeRequest | None] = queue.SimpleQueue()
        self.send(hello=relay_pb2.Hello(flower_run_id=run_id))
        self.down = relay_pb2_grpc.RelayServiceStub(self._channel).Exchange(iter(self._up.get, None))

    def send(self, **message: Any) -> None:
        self._up.put(relay_pb2.ExchangeRequest(**message))

    def die(self) -> None:
        self._up.put(None)
        self._channel.close()
        self._name.__exit__(None, None, None)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RelayServer]:
    server = RelayServer(tmp_path / ("deep" * 30) / "with a space")
    yield server
    server.close()


def opened(server: RelayServer, run_id: int = 7) -> tuple[RelayLink, ServerApp]:
    link = server.open_link(run_id, 100, lambda link: None)
    app = ServerApp(server, run_id)
    assert link.wait_until_connected(TIMEOUT_S)
    return link, app


def task(task_id: str, arrays: bytes) -> Task:
    return Task(task_id, 2**64 - 1, "fit", {"round": 3}, arrays, 60)


def test_one_model_is_sent_once_for_all_its_tasks(server: RelayServer) -> None:
    link, app = opened(server)
    for task_id, arrays in [("a", b"m1"), ("b", bytes(bytearray(b"m1"))), ("c", b"m2"), ("d", b"")]:
        link.send(task(task_id, arrays))
    link.cancel(["b"])
    link.close()
    messages = list(app.down)
    kinds = [message.WhichOneof("message") for message in messages]
    assert kinds == ["model", "task", "task", "model", "task", "model", "task", "cancel"]
    assert [message.task.model_id for message in messages if message.HasField("task")] == [1, 1, 2, 3]
    assert messages[1].task.node_id == 2**64 - 1
    assert (messages[1].task.config, messages[1].task.max_reply_bytes) == (b'{"round": 3}', 100)
    app.die()


def test_replies_are_received_before_the_link_is_reported_as_broken(server: RelayServer) -> None:
    link, app = opened(server)
    update = relay_pb2.Update(arrays=b"u", num_examples=5, metrics={"loss": 0.5}, train_s=1.5, load_s=0.5)
    app.send(reply=relay_pb2.Reply(task_id="a", node_id=1, update=update))
    app.send(reply=relay_pb2.Reply(task_id="b", node_id=2, failure=relay_pb2.Failure(reason="R", message="m")))
    first, second = link.receive(TIMEOUT_S), link.receive(TIMEOUT_S)
    assert first is not None
    assert second is not None
    assert (first.arrays, first.num_examples, first.metrics, first.train_s) == (b"u", 5, {"loss": 0.5}, 1.5)
    assert (second.task_id, second.reason, second.error) == ("b", "R", "m")
    app.die()
    with pytest.raises(LinkBroken, match="Flower run 7 has ended: its ServerApp ended"):
        link.receive(TIMEOUT_S)
    with pytest.raises(LinkBroken):
        link.send(task("c", b""))


def test_a_closed_link_yields_no_more_replies(server: RelayServer) -> None:
    link, app = opened(server)
    link.close()
    link.close()
    assert link.receive(TIMEOUT_S) is None
    with pytest.raises(FailedPrecondition, match="is closed"):
        link.send(task("a", b""))
    app.die()


def test_a_wait_without_a_reply_ends(server: RelayServer) -> None:
    link, app = opened(server)
    assert link.receive(0.05) is None
    app.die()


@pytest.mark.parametrize("run_id", [0, 8])
def test_a_relay_of_another_run_is_refused(server: RelayServer, run_id: int) -> None:
    link = server.open_link(7, 100, lambda link: None)
    app = ServerApp(server, run_id)
    with pytest.raises(grpc.RpcError) as caught:
        list(app.down)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
    assert not link.wait_until_connected(0.05)
    app.die()


def test_a_second_relay_of_a_run_is_refused(server: RelayServer) -> None:
    link, app = opened(server)
    second = ServerApp(server, 7)
    with pytest.raises(grpc.RpcError, match="RUN_NOT_OPEN"):
        list(second.down)
    assert link.receive(0.05) is None
    for one in (app, second):
        one.die()


def test_the_end_of_the_superlink_breaks_all_links(server: RelayServer) -> None:
    closed: list[RelayLink] = []
    links = [server.open_link(run_id, 100, closed.append) for run_id in (1, 2)]
    server.break_all("the SuperLink ended with status -9")
    for link in links:
        with pytest.raises(LinkBroken, match="status -9"):
            link.receive(0)
    assert closed == links


def test_the_socket_is_private_and_ends_with_the_server(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir(mode=0o755)
    server = RelayServer(tmp_path / "home")
    assert server.socket.parent == tmp_path / "home"
    assert server.socket.is_socket()
    assert server.socket.parent.stat().st_mode & 0o777 == 0o700
    server.close()
    assert not server.socket.exists()
    server.close()


KILLED = """
import os, sys
from pathlib import Path
from deepseek.federated.flower.relay import RelayServer
print(RelayServer(Path(sys.argv[1])).socket, flush=True)
os.kill(os.getpid(), 9)
"""


def test_servers_of_one_folder_have_sockets_of_their_own_and_take_over_those_of_killed_ones(tmp_path: Path) -> None:
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    command, environment = (
        [sys.executable, "-c", KILLED, str(tmp_path / "home")],
        {**os.environ, "TMPDIR": str(temporary)},
    )
    lost = [
        Path(subprocess.run(command, env=environment, capture_output=True, text=True).stdout[:-1]) for _ in range(2)
    ]
    assert lost[0] == lost[1]
    assert lost[0].is_socket()
    assert not list(temporary.iterdir())
    servers = [RelayServer(tmp_path / "home") for _ in range(2)]
    assert servers[0].socket == lost[0] != servers[1].socket
    for server in servers:
        link, app = opened(server)
        link.close()
        app.die()
        server.close()
    assert not list((tmp_path / "home").glob("*.sock"))


def test_a_server_app_on_another_machine_says_where_it_must_run(server: RelayServer, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="must run on the machine of the coordinator") as caught:
        relay_app.relay(tmp_path / "relay-0.sock", no_grid(), 7, 0.1)
    assert caught.value.reason == ELSEWHERE
    with pytest.raises(FailedPrecondition, match="must run on the machine of the coordinator") as caught:
        relay_app.relay(server.socket, no_grid(), 8, 0.1)  # another coordinator has a socket of the same name there
    assert caught.value.reason == ELSEWHERE


def test_a_relay_whose_coordinator_ends_just_ends(server: RelayServer) -> None:
    link = server.open_link(7, 100, lambda link: None)
    with ThreadPoolExecutor(1) as threads:
        relayed = threads.submit(relay_app.relay, server.socket, no_grid(), 7, 0.1)
        assert link.wait_until_connected(TIMEOUT_S)
        server.close()
        relayed.result(TIMEOUT_S)


def test_a_model_that_no_message_can_hold_is_refused(server: RelayServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "MAX_MODEL_BYTES", 10)
    link = server.open_link(7, 100, lambda link: None)
    with pytest.raises(InvalidArgument, match="the model has 11 bytes"):
        link.send(task("a", b"x" * 11))


def test_no_reply_may_be_larger_than_a_message_can_be(server: RelayServer) -> None:
    link = server.open_link(7, 4 << 30, lambda link: None)
    app = ServerApp(server, 7)
    assert link.wait_until_connected(TIMEOUT_S)
    link.send(task("a", b""))
    link.close()
    assert [message.task.max_reply_bytes for message in app.down if message.HasField("task")] == [2_000_000_000]
    app.die()


def test_replies_wait_at_the_relay_while_too_many_have_not_been_received(
    server: RelayServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "_MAX_WAITING_BYTES", 10)
    link = server.open_link(7, 100, lambda link: None)
    sent = [relay_pb2.Reply(task_id=name, node_id=1, update=relay_pb2.Update(arrays=b"12345678")) for name in "abc"]
    link.accept(sent[0])
    second, third = (threading.Thread(target=link.accept, args=(one,)) for one in sent[1:])
    second.start()
    second.join(0.2)
    assert second.is_alive()
    first = link.receive(0)
    assert first is not None
    second.join(TIMEOUT_S)
    third.start()
    link.close()
    third.join(TIMEOUT_S)
    assert not third.is_alive()
    rest = [reply.task_id for reply in iter(link.receive, None)]
    assert [first.task_id, *rest] == ["a", "b", "c"]


GOOD: dict[str, ArrayRecord | MetricRecord | ConfigRecord] = {
    UPDATE: opaque(b"abc"),
    METRICS: MetricRecord({"loss": float("nan")}),
    WORK: MetricRecord({"num-examples": 3, "train_s": 1.0, "load_s": 0}),
}


def test_a_good_reply_is_read_without_reading_its_arrays() -> None:
    result = result_of(RecordDict(GOOD), 3)
    assert isinstance(result, relay_pb2.Update)
    assert (result.arrays, result.num_examples, result.load_s) == (b"abc", 3, 0.0)
    assert result.metrics["loss"] != result.metrics["loss"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({UPDATE: None}, "BAD_REPLY"),
        ({UPDATE: ArrayRecord({"other": Array(dtype="u", shape=(1,), stype="s", data=b"x")})}, "BAD_REPLY"),
        ({METRICS: None}, "BAD_REPLY"),
        ({METRICS: MetricRecord({"losses": [1.0, 2.0]})}, "BAD_REPLY"),
        ({METRICS: MetricRecord({f"m{i}": 1.0 for i in range(1001)})}, "BAD_REPLY"),
        ({WORK: MetricRecord({"num-examples": 3})}, "BAD_REPLY"),
        ({WORK: MetricRecord({"num-examples": 3.5, "train_s": 1.0, "load_s": 0})}, "BAD_REPLY"),
        ({WORK: MetricRecord({"num-examples": 2**63, "train_s": 1.0, "load_s": 0})}, "BAD_REPLY"),
        ({UPDATE: opaque(b"abcd")}, "OVERSIZED"),
        ({ERROR: ConfigRecord({})}, "CLIENT_ERROR"),
        ({ERROR: ConfigRecord({"reason": "r" * 1000, "message": "m" * 100_000})}, "r" * 100),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "",
)
def test_a_false_reply_is_refused(changes: dict[str, Any], reason: str) -> None:
    content = {name: record for name, record in {**GOOD, **changes}.items() if record is not None}
    result = result_of(RecordDict(content), 3)
    assert isinstance(result, relay_pb2.Failure)
    assert result.reason == reason
    assert len(result.message) <= 4000
