"""A reverse proxy through which nodes on other machines reach a SuperLink that listens on loopback.

Flower serves its Control API on the port that nodes use, and does not authenticate its callers. The Control API can
start any code on all nodes. This proxy forwards only the calls of nodes, which Flower authenticates by the node's key.
Flower compares the key with the node that a call names; this proxy compares that node with the sender of each message.
It terminates TLS with the SuperLink's certificate. Bodies are limited, because Flower reads them before it
authenticates.
"""

import argparse
import asyncio
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import uvicorn
from flwr.proto.fleet_pb2 import PushMessagesRequest
from google.protobuf.message import DecodeError
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from common.processes import bounding_log, python, spawn, terminate

MAX_BODY_BYTES = {
    "activate-node": 4 << 10,
    "confirm-message-received": 4 << 10,
    "deactivate-node": 4 << 10,
    "get-fab": 4 << 10,
    "get-run": 4 << 10,
    "pull-messages": 4 << 10,
    "pull-object": 4 << 10,
    "push-messages": 128 << 10,
    "push-object": 6 << 20,
    "send-node-heartbeat": 4 << 10,
}
"""Longest body of each call of a node with a key, in bytes.

Flower sends arrays as objects of 5 MiB. `push-messages` has about 70 bytes per object, so its limit also bounds the
number of objects of a message, and with it the size of an update.
"""
MAX_BUFFERED_BYTES = 512 << 20
"""Maximum size of all bodies together that have arrived and have not been forwarded, in bytes."""
MAX_CONNECTIONS = 1024
BODY_TIMEOUT_S = 120.0
"""Time within which a body must have arrived, in seconds."""
HEAD_TIMEOUT_S = 20.0
"""Time within which the request line and the headers of the next request must have arrived, in seconds."""

_PREFIX = "/v1/fleet/"
_TIMEOUT_S = 60.0
_RESTART_S = 1.0
_STOP_TIMEOUT_S = 5.0
# Headers about one connection, not the request (RFC 9110, section 7.6.1).
_HOP_HEADERS = frozenset({"connection", "host", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade"})


def make_app(superlink: str, root_certificates: Path) -> Starlette:
    """Returns the proxy as an ASGI application.

    Args:
        superlink: `host:port` of the SuperLink.
        root_certificates: File with the certificates of the authorities to trust.
    """
    trust = ssl.create_default_context(cafile=str(root_certificates))

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        async with httpx.AsyncClient(base_url=f"https://{superlink}", verify=trust, timeout=_TIMEOUT_S) as client:
            app.state.client = client
            app.state.bodies = _Bodies()
            yield

    return Starlette(routes=[Route(f"{_PREFIX}{{name}}", _forward, methods=["POST"])], lifespan=lifespan)


class _Bodies:
    """The bodies that have arrived and have not been forwarded."""

    def __init__(self) -> None:
        self._num_bytes = 0

    @contextmanager
    def buffer(self, limit: int) -> Iterator["_Body"]:
        """Yields an empty body that may have up to `limit` bytes."""
        body = _Body(limit, self._add)
        try:
            yield body
        finally:
            self._num_bytes -= len(body.content)

    def _add(self, num_bytes: int) -> None:
        if self._num_bytes + num_bytes > MAX_BUFFERED_BYTES:
            raise HTTPException(503, "too many bodies are arriving; try again")
        self._num_bytes += num_bytes


class _Body:
    """A body that is arriving."""

    def __init__(self, limit: int, add: Callable[[int], None]) -> None:
        self._limit = limit
        self._add = add
        self.content = bytearray()

    async def receive(self, request: Request) -> None:
        """Receives the body of a request.

        Raises:
            HTTPException: 413 if it is too long; 503 if it takes too long, or there are too many others.
        """
        self._check(int(request.headers.get("content-length", "0")))
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                async for part in request.stream():
                    self._check(len(self.content) + len(part))
                    self._add(len(part))
                    self.content += part
        except TimeoutError:
            # Flower's nodes try again after 503, but not after 408.
            raise HTTPException(503, f"the body did not arrive within {BODY_TIMEOUT_S:g} s") from None

    def _check(self, num_bytes: int) -> None:
        if num_bytes > self._limit:
            raise HTTPException(413, f"the body has more than {self._limit} bytes")


def check_messages(body: bytes) -> None:
    """Checks that a node sends only replies, in its own name.

    Args:
        body: Body of a call of `push-messages`. Flower checks that the node that it names has the caller's key.

    Raises:
        HTTPException: 400 or 403.
    """
    try:
        pushed = PushMessagesRequest.FromString(body)
    except DecodeError:
        raise HTTPException(400, "the body is not a PushMessagesRequest") from None
    for message in pushed.messages_list:
        if message.metadata.src_node_id != pushed.node.node_id:
            raise HTTPException(403, "a message names another node as its sender")
        if not message.metadata.reply_to_message_id:
            raise HTTPException(403, "a message is not a reply")


async def _forward(request: Request) -> Response:
    call = request.path_params["name"]
    if call not in MAX_BODY_BYTES:
        raise HTTPException(404)
    with request.app.state.bodies.buffer(MAX_BODY_BYTES[call]) as body:
        await body.receive(request)
        content = bytes(body.content)
        if call == "push-messages":
            check_messages(content)
        client: httpx.AsyncClient = request.app.state.client
        headers = [(name, value) for name, value in request.headers.items() if name not in _HOP_HEADERS]
        try:
            forwarded = client.build_request("POST", f"{_PREFIX}{call}", headers=headers, content=content)
            response = await client.send(forwarded, stream=True)
        except httpx.TransportError as error:
            return PlainTextResponse(f"the SuperLink cannot be reached: {error}", status_code=503)
    answer = StreamingResponse(response.aiter_raw(), response.status_code, background=BackgroundTask(response.aclose))
    for name, value in response.headers.items():
        if name not in _HOP_HEADERS:
            answer.headers[name] = value
    return answer


class HeadTimeout(HttpToolsProtocol):
    """A connection that is closed if the head of the next request does not arrive within `HEAD_TIMEOUT_S`.

    Uvicorn itself closes connections that are idle after a response, but neither those that never send a request nor
    those that send its head slowly.
    """

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._cancel_timer()
        super().connection_lost(exc)

    def on_headers_complete(self) -> None:
        self._cancel_timer()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        if self.cycle.response_complete:  # otherwise, the response to a pipelined request follows
            self._expect_head()

    def _expect_head(self) -> None:
        self._cancel_timer()
        self._timer = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.abort)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()


def server_config(listen: str, superlink: str, certificates: Path) -> uvicorn.Config:
    """Returns the configuration of a server of the proxy.

    Args:
        listen: `host:port` on which nodes connect.
        superlink: `host:port` of the SuperLink.
        certificates: Folder with `ca.pem`, `cert.pem` and `key.pem`.
    """
    host, _, port = listen.rpartition(":")
    return uvicorn.Config(
        make_app(superlink, certificates / "ca.pem"),
        host=host.strip("[]"),
        port=int(port),
        http=HeadTimeout,
        ws="none",
        ssl_certfile=str(certificates / "cert.pem"),
        ssl_keyfile=str(certificates / "key.pem"),
        limit_concurrency=MAX_CONNECTIONS,
        log_level="error",  # otherwise, unauthenticated callers could fill the log
        server_header=False,
    )


class NodeProxy:
    """Runs the proxy as a child process, and starts it again if it ends. Thread-safe.

    Args:
        listen: `host:port` on which nodes connect.
        superlink: `host:port` of the SuperLink.
        certificates: Folder with `ca.pem`, `cert.pem` and `key.pem`, of the proxy and to trust the SuperLink.
        log: File for its output.
    """

    def __init__(self, listen: str, superlink: str, certificates: Path, log: Path) -> None:
        self._argv = python(
            __name__, f"--listen={listen}", f"--superlink={superlink}", f"--certificates={certificates}"
        )
        self._log = log
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._process = spawn(self._argv, env=None, log=log)
        self._thread = threading.Thread(target=self._supervise, name="node-proxy", daemon=True)
        self._thread.start()

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._process.pid

    def stop(self) -> None:
        """Ends the process. Idempotent."""
        with self._lock:
            self._stopped.set()
            terminate(self._process, grace_s=_STOP_TIMEOUT_S)
        self._thread.join()

    def _supervise(self) -> None:
        while True:
            with bounding_log(self._log):
                self._process.wait()
            time.sleep(_RESTART_S)
            with self._lock:
                if self._stopped.is_set():
                    return
                self._process = spawn(self._argv, env=None, log=self._log)


def main() -> None:
    """Serves until the process is ended."""
    parser = argparse.ArgumentParser(description="Forward the API of federated nodes to a SuperLink.")
    parser.add_argument("--listen", required=True, help="host:port on which nodes connect")
    parser.add_argument("--superlink", required=True, help="host:port of the SuperLink")
    parser.add_argument("--certificates", required=True, type=Path, help="folder with ca.pem, cert.pem and key.pem")
    arguments = parser.parse_args()
    uvicorn.Server(server_config(arguments.listen, arguments.superlink, arguments.certificates)).run()


if __name__ == "__main__":
    main()
