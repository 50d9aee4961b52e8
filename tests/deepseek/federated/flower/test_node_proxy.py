"""What passes from other machines to a SuperLink: the nodes' API, and nothing else."""

import asyncio
import contextlib
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from flwr.proto.fleet_pb2 import PushMessagesRequest
from flwr.proto.message_pb2 import Message, Metadata
from starlette.exceptions import HTTPException

from common.auth.certificates import make_authority
from common.ports import free_ports
from deepseek.federated.flower import node_proxy
from deepseek.federated.flower.flower_engine import FlowerEngine, FlowerSettings
from deepseek.federated.flower.node_keys import create_key
from deepseek.federated.flower.node_proxy import MAX_BODY_BYTES, check_messages, make_app, server_config
from deepseek.federated.flower.superlink import SuperLinkAddress
from deepseek.federated.flower.supernode import Node, NodeConfig
from tests.deepseek.federated.flower.conftest import TIMEOUT_S
from tests.harness.processes import wait_until

pytestmark = pytest.mark.timeout(300)


@pytest.fixture(scope="module")
def address() -> str:
    return f"127.0.0.1:{free_ports(1)[0]}"


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, address: str) -> Iterator[FlowerEngine]:
    engine = FlowerEngine(FlowerSettings(tmp_path_factory.mktemp("superlink"), listen=address))
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def client(engine: FlowerEngine, address: str) -> Iterator[httpx.Client]:
    trust = ssl.create_default_context(cafile=str(engine.root_certificates))
    with httpx.Client(base_url=f"https://{address}", verify=trust, timeout=TIMEOUT_S) as client:

        def listens() -> bool:
            try:
                client.get("/")
            except httpx.ConnectError:
                return False
            return True

        wait_until(listens, "the proxy")
        yield client


def test_a_node_connects_through_it(engine: FlowerEngine, client: httpx.Client, address: str, tmp_path: Path) -> None:
    create_key(tmp_path / "key")
    node_id = engine.register_node((tmp_path / "key.pub").read_bytes())
    superlink = SuperLinkAddress(address, engine.root_certificates)
    node = Node(NodeConfig(superlink, tmp_path / "key", tmp_path / "work", "data", preload=False))
    try:
        wait_until(lambda: node.node_id == node_id, "the node", timeout_s=TIMEOUT_S)
        assert [one.online for one in engine.nodes()] == [True]
    finally:
        node.stop()


@pytest.mark.parametrize(
    "path",
    [
        "/v1/control/list-nodes",
        "/v1/control/start-run",
        "/v1/runtime/acquire-task",
        "/v1/fleet/../control/list-nodes",
        "/v1/fleet/%2e%2e%2fcontrol%2flist-nodes",
        "/v1/fleet/..%2Fcontrol%2Flist-nodes",
        "/v1/fleet//control/list-nodes",
        "/v1/fleet/register-node",
        "/v1/fleet/push-messages%3Fx",
        "/health",
        "/docs",
    ],
)
def test_nothing_else_passes(engine: FlowerEngine, client: httpx.Client, address: str, path: str) -> None:
    headers = {"content-type": "application/x-protobuf", "accept": "application/x-protobuf"}
    answer = client.post(httpx.URL(f"https://{address}").copy_with(raw_path=path.encode()), headers=headers)
    assert answer.status_code in (401, 404, 405)


def test_a_call_without_a_key_is_refused_by_flower(client: httpx.Client) -> None:
    headers = {"content-type": "application/protobuf", "accept": "application/protobuf"}
    answer = client.post("/v1/fleet/pull-messages", headers=headers)
    assert answer.status_code in (400, 401, 415, 422)


@pytest.mark.parametrize("call", ["activate-node", "push-messages", "push-object"])
def test_a_long_body_is_refused(client: httpx.Client, call: str) -> None:
    limit = MAX_BODY_BYTES[call]
    assert client.post(f"/v1/fleet/{call}", content=iter([b"x" * limit, b"x"])).status_code == 413
    assert client.post(f"/v1/fleet/{call}", content=iter([b"x" * limit])).status_code != 413


def test_a_long_body_is_refused_before_it_is_sent(client: httpx.Client) -> None:
    sent: list[bytes] = []

    def body() -> Iterator[bytes]:
        sent.append(b"")
        yield b"x" * (MAX_BODY_BYTES["push-object"] + 1)

    headers = {"content-length": str(MAX_BODY_BYTES["push-object"] + 1), "expect": "100-continue"}
    with client.stream("POST", "/v1/fleet/push-object", headers=headers, content=body()) as answer:
        assert answer.status_code == 413


def message(src_node_id: int, reply_to: str) -> Message:
    return Message(metadata=Metadata(src_node_id=src_node_id, reply_to_message_id=reply_to))


@pytest.mark.parametrize(
    ("messages", "status"),
    [
        ([message(5, "id")], None),
        ([message(6, "id")], 403),
        ([message(5, "id"), message(1, "id")], 403),
        ([message(5, "")], 403),
        ([Message()], 403),
    ],
)
def test_a_node_sends_replies_in_its_own_name_only(messages: list[Message], status: int | None) -> None:
    body = PushMessagesRequest(node={"node_id": 5}, messages_list=messages).SerializeToString()
    if status is None:
        check_messages(body)
        return
    with pytest.raises(HTTPException) as caught:
        check_messages(body)
    assert caught.value.status_code == status


def test_a_message_in_the_name_of_another_node_does_not_pass(client: httpx.Client) -> None:
    pushed = PushMessagesRequest(node={"node_id": 5}, messages_list=[message(6, "id")])
    assert client.post("/v1/fleet/push-messages", content=pushed.SerializeToString()).status_code == 403
    assert client.post("/v1/fleet/push-messages", content=b"no protobuf").status_code == 400


async def post(content: AsyncIterator[bytes], root_certificates: Path) -> httpx.Response:
    """Sends a body to a proxy without a SuperLink."""
    app = make_app(f"127.0.0.1:{free_ports(1)[0]}", root_certificates)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=httpx.ASGITransport(app)) as client:
        return await client.post("https://proxy/v1/fleet/push-object", content=content)


def test_a_body_that_does_not_arrive_in_time_is_refused(engine: FlowerEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_proxy, "BODY_TIMEOUT_S", 0.05)

    async def slow() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(30)

    assert engine.root_certificates is not None
    answer = asyncio.run(post(slow(), engine.root_certificates))
    assert (answer.status_code, answer.text) == (503, "the body did not arrive within 0.05 s")


def test_all_bodies_together_are_limited(engine: FlowerEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node_proxy, "MAX_BUFFERED_BYTES", 10)

    async def body() -> AsyncIterator[bytes]:
        yield b"12345678"
        yield b"12345678"

    assert engine.root_certificates is not None
    answer = asyncio.run(post(body(), engine.root_certificates))
    assert (answer.status_code, answer.text) == (503, "too many bodies are arriving; try again")


REQUEST = b"POST /v1/fleet/pull-messages HTTP/1.1\r\nhost: proxy\r\ncontent-length: 4\r\n\r\nbody"


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("authority")
    make_authority(folder, ["proxy"])
    return folder / "proxy"


@pytest.fixture
def connect(certificates: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], ssl.SSLSocket]]:
    """Connects to a proxy without a SuperLink, which waits half a second for the head of a request."""
    monkeypatch.setattr(node_proxy, "HEAD_TIMEOUT_S", 0.5)
    port, superlink = free_ports(2)
    server = uvicorn.Server(server_config(f"127.0.0.1:{port}", f"127.0.0.1:{superlink}", certificates))
    thread = threading.Thread(target=server.run)
    thread.start()
    wait_until(lambda: server.started, "the proxy")
    trust = ssl.create_default_context(cafile=str(certificates / "ca.pem"))
    with contextlib.ExitStack() as sockets:

        def connected() -> ssl.SSLSocket:
            connection = socket.create_connection(("127.0.0.1", port), TIMEOUT_S)
            return sockets.enter_context(trust.wrap_socket(connection, server_hostname="localhost"))

        yield connected
    server.should_exit = True
    thread.join(TIMEOUT_S)


def read_until_closed(connection: ssl.SSLSocket, dripping: Iterable[int] = ()) -> bytes:
    """Reads until the proxy closes a connection, and sends a byte of `dripping` every tenth of a second meanwhile."""
    found, to_send = b"", iter(dripping)
    connection.settimeout(0.1 if dripping else TIMEOUT_S)
    with contextlib.suppress(ConnectionError, ssl.SSLEOFError):
        while True:
            try:
                part = connection.recv(4096)
            except TimeoutError:
                assert dripping, "the proxy does not close the connection"
                connection.sendall(bytes([next(to_send)]))
                continue
            if not part:
                break
            found += part
    return found


def test_a_connection_that_sends_nothing_is_closed(connect: Callable[[], ssl.SSLSocket]) -> None:
    assert read_until_closed(connect()) == b""


@pytest.mark.parametrize("num_requests", [0, 1])
def test_a_connection_that_sends_a_head_slowly_is_closed(
    connect: Callable[[], ssl.SSLSocket], num_requests: int
) -> None:
    connection = connect()
    if num_requests:
        connection.sendall(REQUEST)
    found = read_until_closed(connection, REQUEST)
    assert found.count(b"HTTP/1.1 503") == num_requests


def test_a_request_whose_head_has_arrived_is_answered(connect: Callable[[], ssl.SSLSocket]) -> None:
    connection = connect()
    connection.sendall(REQUEST[:-2])
    time.sleep(1)
    connection.sendall(REQUEST[-2:] + REQUEST)  # the second one before the answer to the first one
    assert read_until_closed(connection).count(b"HTTP/1.1 503") == 2
