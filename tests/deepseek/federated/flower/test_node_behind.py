"""A real SuperNode that is one reply behind, because a run has ended while it received a message, comes into step."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvicorn

from common.ports import free_ports
from deepseek.federated.flower.node_proxy import server_config
from deepseek.federated.flower.superlink import SuperLinkAddress
from deepseek.federated.flower.supernode import Node
from tests.deepseek.federated.flower.conftest import MAX_REPLY_BYTES, TIMEOUT_S, Federation, answer, task
from tests.harness.processes import wait_until

pytestmark = pytest.mark.timeout(600)


@contextmanager
def holding(address: str, superlink: str, certificates: Path) -> Iterator[tuple[threading.Event, threading.Event]]:
    """A proxy that holds the confirmations of messages.

    Yields:
        What is set once there is a confirmation, and what to set to let it pass.
    """
    held, go = threading.Event(), threading.Event()
    config = server_config(address, superlink, certificates)
    forward: Any = config.app

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope.get("path", "").endswith("/confirm-message-received"):
            held.set()
            await asyncio.to_thread(go.wait, TIMEOUT_S)
        await forward(scope, receive, send)

    config.app = app
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    try:
        yield held, go
    finally:
        go.set()
        server.should_exit = True
        thread.join()


def test_a_node_whose_run_ended_while_it_received_a_message_answers_later_runs(federation: Federation) -> None:
    engine, address = federation.engine, f"127.0.0.1:{free_ports(1)[0]}"
    config = federation.config("behind")
    config = replace(config, superlink=SuperLinkAddress(address, engine.root_certificates))
    node_id = engine.register_node(Path(f"{config.private_key}.pub").read_bytes())
    log = config.work_folder / "supernode.log"
    with holding(address, engine.address, engine.root_certificates.parent) as (held, go):
        node = Node(config)
        try:
            wait_until(lambda: any(one.online for one in engine.nodes() if one.node_id == node_id), "the node")
            first = engine.open_run("ends", MAX_REPLY_BYTES)
            first.send(task(node_id, "t"))
            assert held.wait(TIMEOUT_S), "the node receives a message"
            first.close()
            go.set()
            wait_until(lambda: "Ignoring message" in log.read_text(), "the node to see that the run has ended")
            second = engine.open_run("goes on", MAX_REPLY_BYTES)
            for name in ("a", "b", "c"):
                second.send(task(node_id, name, {"run": "r", "round": 1}))
                reply = answer(second)
                assert (reply.task_id, reply.error) == (name, "")
            second.close()
        finally:
            node.stop()
