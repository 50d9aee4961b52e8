"""A SuperLink and a node, both Flower's own programs, that the tests of a module share; and a relay with stand-ins."""

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import safetensors.numpy
from flwr.supercore.task_identity import TaskIdentity

from common.unix_sockets import short_name
from deepseek.federated.flower import relay
from deepseek.federated.flower.engine import Link, Task, TaskReply
from deepseek.federated.flower.flower_engine import FlowerEngine, FlowerSettings
from deepseek.federated.flower.node_keys import create_key
from deepseek.federated.flower.relay import RelayLink, RelayServer
from deepseek.federated.flower.relay_app import Relay
from deepseek.federated.flower.superlink import SuperLinkAddress
from deepseek.federated.flower.supernode import Node, NodeConfig
from tests.deepseek.federated.flower.stand_ins import LIMIT, Answer, Nodes
from tests.harness.processes import wait_until

ARRAYS = safetensors.numpy.save({"w": np.arange(4, dtype=np.float32)})
MAX_REPLY_BYTES = 1 << 20
TIMEOUT_S = 120.0


@dataclass
class Federation:
    """An engine with its nodes.

    Attributes:
        engine: The engine.
        folder: Folder of the keys and work folders.
        node: The node that all tests share.
        node_id: Flower's id of that node.
    """

    engine: FlowerEngine
    folder: Path
    nodes: dict[str, Node] = field(default_factory=dict)
    node_ids: dict[str, int] = field(default_factory=dict)

    def config(self, name: str) -> NodeConfig:
        """Returns the configuration of a node with a new key."""
        key = self.folder / f"{name}.key"
        create_key(key)
        superlink = SuperLinkAddress(self.engine.address, self.engine.root_certificates)
        return NodeConfig(superlink, key, self.folder / name, f"data of {name}", worker="adding_worker")

    def join(self, name: str) -> int:
        """Registers and starts a node."""
        config = self.config(name)
        self.node_ids[name] = self.engine.register_node(Path(f"{config.private_key}.pub").read_bytes())
        self.nodes[name] = Node(config)
        wait_until(lambda: self.online(name), f"the node {name}", timeout_s=TIMEOUT_S)
        return self.node_ids[name]

    def online(self, name: str) -> bool:
        """Returns whether a node is connected."""
        return any(node.online for node in self.engine.nodes() if node.node_id == self.node_ids[name])


def task(node_id: int, task_id: str, config: Mapping[str, Any] | None = None, **fields: Any) -> Task:
    """Returns a task for a node."""
    return Task(task_id, node_id, fields.pop("kind", "fit"), config or {}, fields.pop("arrays", ARRAYS), TIMEOUT_S)


def answer(link: Link) -> TaskReply:
    """Returns the next reply of a link."""
    reply = link.receive(TIMEOUT_S)
    assert reply is not None, "no reply in time"
    return reply


def pids_of(program: str, argument: str) -> list[int]:
    """Returns the ids of the running processes of a program that have a certain argument."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            words = (entry / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        # The launcher of `spawn` names the program after its own code, so only the first words count.
        if argument in words and any(Path(word).name == program for word in words[:2]):
            found.append(int(entry.name))
    return found


@pytest.fixture(scope="module")
def federation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Federation]:
    """A SuperLink with one node."""
    folder = tmp_path_factory.mktemp("federation")
    with pytest.MonkeyPatch.context() as patch:
        # The worker of the tests is a module that nodes can import.
        patch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
        engine = FlowerEngine(FlowerSettings(folder / "superlink"))
        federation = Federation(engine, folder)
        try:
            federation.join("ana")
            yield federation
        finally:
            for node in federation.nodes.values():
                node.stop()
            engine.close()


@pytest.fixture
def link(federation: Federation, request: pytest.FixtureRequest) -> Iterator[Link]:
    """A link of a run of the test's own."""
    link = federation.engine.open_run(request.node.name[:60], MAX_REPLY_BYTES)
    yield link
    link.close()


Kill = Callable[[int], None]


@pytest.fixture
def connect(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[[dict[int, Answer]], tuple[RelayLink, Nodes]]]:
    """A relay whose nodes reply as given functions say; each node gets a task."""
    # Flower's processes set these before they load an app, and a message cannot be made without them.
    for name, value in {"run_id": 7, "task_id": 3, "node_id": 1}.items():
        monkeypatch.setattr(TaskIdentity, f"_{name}", value)
    server = RelayServer(tmp_path)
    threads: list[threading.Thread] = []
    names = contextlib.ExitStack()
    name = names.enter_context(short_name(server.socket))
    channel = grpc.insecure_channel(f"unix:{name}", options=relay.GRPC_OPTIONS)

    def connected(answers: dict[int, Answer]) -> tuple[RelayLink, Nodes]:
        nodes = Nodes(answers)
        link = server.open_link(7, LIMIT, lambda link: None)
        threads.append(threading.Thread(target=Relay(nodes, 7, channel, 0.01).run))
        threads[0].start()
        assert link.wait_until_connected(20.0)
        for node_id in answers:
            link.send(Task(f"task of {node_id}", node_id, "fit", {"round": 1}, b"model", 60))
        return link, nodes

    yield connected
    server.close()
    for thread in threads:
        thread.join(20.0)
        assert not thread.is_alive()
    channel.close()
    names.close()
