"""What the edge does, seen with Envoy itself, the edge's own configuration, and services on free ports."""

import contextlib
import json
import os
import re
import signal
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2

from common.auth.certificates import renew, rotate_signing_key
from common.auth.identity import Identity
from common.channel import open_channel
from common.errors import MeshError
from deepseek.services import SERVICES
from deploy.stack import CLOSED
from protos.registry.v1 import registry_pb2, registry_pb2_grpc
from tests.common.auth.key_sets import other_members
from tests.harness.contracts import OURS, Method, methods_of
from tests.harness.edge import Edge, running_edge
from tests.harness.identity import Authority, Metadata, bearer, new_authority, plain_channel
from tests.harness.processes import wait_until
from tests.harness.subprocesses import ServiceSubprocess

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

LIST_MODELS = "/deepseek.registry.v1.RegistryService/ListModels"
HEALTH = "/grpc.health.v1.Health/Check"
LAME_DUCK_S = 12
"""How long a replica serves after SIGTERM; the edge must have left it by then."""


class Backend(grpc.GenericRpcHandler):
    """A service that offers every method there might be, and knows what came: a real one may not be reached at all.

    Attributes:
        address: `host:port`.
        reached: Paths of the calls that came, ready or not.
    """

    def __init__(self, identity: Path, methods: Sequence[Method]) -> None:
        self.reached: set[str] = set()
        self._kinds = {method.path: method.kind for method in methods} | {HEALTH: "unary_unary"}
        self._server = grpc.server(futures.ThreadPoolExecutor(16), handlers=[self])
        port = self._server.add_secure_port("127.0.0.1:0", Identity(identity).server_credentials())
        self.address = f"127.0.0.1:{port}"
        self._server.start()

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> "grpc.RpcMethodHandler[Any, Any]":
        self.reached.add(handler_call_details.method)
        kind = self._kinds[handler_call_details.method]
        handler: grpc.RpcMethodHandler[Any, Any] = getattr(grpc, f"{kind}_rpc_method_handler")(
            lambda request, context: _answer(kind, request)
        )
        return handler

    def close(self) -> None:
        self._server.stop(None).wait()


def _answer(kind: str, request: Any) -> Any:
    """A number for a stream of requests, else `SERVING` to whoever asks for health; a stream of it where one is due."""
    serving = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING).SerializeToString()
    answer = str(len(list(request))).encode() if kind.startswith("stream") else serving
    return answer if kind.endswith("unary") else iter([answer])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A separate authority for each test: tests rotate its keys and renew its certificates."""
    made = new_authority(tmp_path / "identity", SERVICES)
    made.identity("user").mkdir()
    (made.identity("user") / "ca.pem").write_bytes((made.folder / "ca.pem").read_bytes())
    return made.folder


@pytest.fixture(scope="module")
def methods() -> list[Method]:
    return [method for name in OURS if name not in CLOSED for method in methods_of("trainer", name)]


@pytest.fixture
def backends(folder: Path, methods: list[Method]) -> Iterator[dict[str, Backend]]:
    found = {name: Backend(folder / name, methods) for name in SERVICES}
    yield found
    for backend in found.values():
        backend.close()


@contextlib.contextmanager
def edge_before(backends: dict[str, Backend], tmp_path: Path, folder: Path, **changes: str) -> Iterator[Edge]:
    services = {name: [backend.address] for name, backend in backends.items()}
    with running_edge(tmp_path / "edge", folder / "edge", services, changes) as edge:
        yield edge


def channel_to(edge: Edge, folder: Path) -> grpc.Channel:
    return plain_channel(edge.address, folder / "user")


def headers(folder: Path) -> Metadata:
    return (*bearer(Authority(folder).token()), ("deepseek-service", "trainer"))


def test_a_request_reaches_a_service_when_it_is_whole_and_a_stream_at_once(
    folder: Path, methods: list[Method], backends: dict[str, Backend], tmp_path: Path
) -> None:
    let_go = threading.Event()

    def requests() -> Iterator[bytes]:
        let_go.wait(60)
        yield b""

    streams = {method.path for method in methods if method.kind.startswith("stream")}
    short = {"max_stream_duration: 30s": "max_stream_duration: 3s"}
    with edge_before(backends, tmp_path, folder, **short) as edge, channel_to(edge, folder) as channel:
        # Neither sends anything before the iterator gives something, nor says that there is no more.
        calls = {
            method.path: getattr(channel, f"stream_{method.kind.rpartition('_')[2]}")(method.path) for method in methods
        }
        begun = {
            path: call.future(requests(), metadata=headers(folder))
            if isinstance(call, grpc.StreamUnaryMultiCallable)
            else call(requests(), metadata=headers(folder))
            for path, call in calls.items()
        }
        unary = [method.path for method in methods if method.kind == "unary_unary"]
        wait_until(lambda: all(begun[path].done() for path in unary), "half-sent calls to be ended")
        assert {begun[path].code() for path in unary} == {grpc.StatusCode.DEADLINE_EXCEEDED}
        assert set().union(*(backend.reached for backend in backends.values())) - {HEALTH} == streams
        assert not [path for path, call in begun.items() if path not in unary and call.done()]
        let_go.set()
        for path in streams:
            is_unary = isinstance(calls[path], grpc.StreamUnaryMultiCallable)
            assert (begun[path].result(30) if is_unary else next(begun[path])) == b"1"


def test_every_method_but_those_of_upkeep_has_a_route_to_its_service(
    folder: Path, methods: list[Method], backends: dict[str, Backend], tmp_path: Path
) -> None:
    with edge_before(backends, tmp_path, folder) as edge, channel_to(edge, folder) as channel:
        for method in methods:
            method.call(channel, b"", headers(folder))
        reached = {name: backend.reached - {HEALTH} for name, backend in backends.items()}
        assert set().union(*reached.values()) == {method.path for method in methods}
        trainer = {path.split("/")[1] for path in reached["trainer"]}
        assert trainer == set(SERVICES["trainer"].contracts) - CLOSED


def test_new_keys_and_certificates_count_without_a_restart(
    folder: Path, backends: dict[str, Backend], tmp_path: Path
) -> None:
    def refused(bearing: str) -> bool:
        return code_of(channel, bearer(bearing)) is grpc.StatusCode.UNAUTHENTICATED

    with edge_before(backends, tmp_path, folder) as edge, channel_to(edge, folder) as channel:
        first = Authority(folder).token()
        assert not refused(first)
        rotate_signing_key(folder)
        wait_until(lambda: not refused(Authority(folder).token()), "a token of the new key to be taken")
        assert not refused(first)
        rotate_signing_key(folder, revoke=True)
        wait_until(lambda: refused(first), "a revoked token to be refused")
        wait_until(lambda: not refused(Authority(folder).token()), "a token of the newest key to be taken")

        before = shown(edge)
        certificates = set(re.findall(r'"serial_number": "(\w+)"', edge.read_admin("/certs")))
        renew(folder)
        wait_until(lambda: shown(edge) != before, "the edge to show a new certificate")
        # What it shows to services is the same, of which no context has the old one: all that is left is the CA's.
        wait_until(
            lambda: len(certificates & set(re.findall(r'"serial_number": "(\w+)"', edge.read_admin("/certs")))) == 1,
            "the edge to forget the old certificate",
        )
        assert not refused(Authority(folder).token())


def test_clocks_may_differ_and_a_set_may_hold_other_keys_as_at_a_service(
    folder: Path, backends: dict[str, Backend], tmp_path: Path
) -> None:
    file = folder / "edge" / "jwks.json"
    keys = json.loads(file.read_bytes())["keys"]
    file.write_text(json.dumps({"keys": [*other_members(keys[0]), *keys]}), encoding="utf-8")
    ok, refused = grpc.StatusCode.OK, grpc.StatusCode.UNAUTHENTICATED
    with edge_before(backends, tmp_path, folder) as edge, channel_to(edge, folder) as channel:
        for ahead_s, code in ((0, ok), (15, ok), (-3600 - 15, ok), (-3600 - 60, refused)):
            assert (
                code_of(channel, bearer(Authority(folder).token(clock=lambda by=ahead_s: time.time() + by))) is code
            ), ahead_s


def code_of(channel: grpc.Channel, metadata: Sequence[tuple[str, str]]) -> grpc.StatusCode:
    """How a call ends."""
    code: grpc.StatusCode = channel.unary_unary(LIST_MODELS).future(b"", metadata=metadata, timeout=10).code()
    return code


def shown(edge: Edge) -> str:
    """The certificate that the edge shows to users."""
    host, _, port = edge.address.rpartition(":")
    return ssl.get_server_certificate((host, int(port)))


@pytest.mark.faults
def test_a_replica_that_is_told_to_stop_is_left_without_an_error(folder: Path, tmp_path: Path) -> None:
    with contextlib.ExitStack() as owned:
        replicas = []
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            identity = {"identity": str(folder / "registry"), "lame_duck_s": str(LAME_DUCK_S)}
            replicas.append(ServiceSubprocess("registry", tmp_path / name, settings=identity))
            owned.callback(replicas[-1].close)
            replicas[-1].start()
        places = {"registry": [replica.address for replica in replicas]}
        edge = owned.enter_context(running_edge(tmp_path / "edge", folder / "edge", places))
        wait_until(lambda: all(is_well(edge, replica) for replica in replicas), "both to be well")
        load = Load(edge, folder)
        owned.callback(load.end)
        wait_until(lambda: load.done > 200, "calls")
        os.kill(replicas[0].pid, signal.SIGTERM)
        wait_until(lambda: not is_well(edge, replicas[0]), "the edge to leave it", timeout_s=LAME_DUCK_S)
        replicas[0].stop()
        after = load.done
        wait_until(lambda: load.done > after + 200, "calls without the one that has stopped")
        replicas[0].start()
        wait_until(lambda: all(is_well(edge, replica) for replica in replicas), "it to be back")
        replicas[1].stop()
        after = load.done
        wait_until(lambda: load.done > after + 200, "calls at the one that is back")
        load.end()
        assert not load.errors


def is_well(edge: Edge, replica: ServiceSubprocess) -> bool:
    """Whether the edge takes it for ready."""
    return f"registry::{replica.address}::health_flags::healthy" in edge.read_admin("/clusters")


class Load:
    """Calls that never cease, until `end`, and are not tried again."""

    def __init__(self, edge: Edge, folder: Path, num_threads: int = 4) -> None:
        self.done = 0
        self.errors: list[str] = []
        self._over = threading.Event()
        self._address, self._ca, self._token = edge.address, folder / "user", bearer(Authority(folder).token())
        self._threads = [threading.Thread(target=self._call) for _ in range(num_threads)]
        for thread in self._threads:
            thread.start()

    def end(self) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def _call(self) -> None:
        with open_channel(self._address, identity=self._ca, retry=False) as channel:
            stub = registry_pb2_grpc.RegistryServiceStub(channel)
            while not self._over.wait(0.002):
                try:
                    stub.ListModels(registry_pb2.ListModelsRequest(), metadata=self._token)
                    self.done += 1
                except MeshError as error:
                    self.errors.append(f"{error.code}: {error.message}")


def test_who_sends_much_and_ends_nothing_is_cut_and_not_the_others(
    folder: Path, backends: dict[str, Backend], tmp_path: Path
) -> None:
    let_go = threading.Event()
    heap = {"max_heap_size_bytes: 1073741824": "max_heap_size_bytes: 150000000"}

    def requests() -> Iterator[bytes]:
        for _ in range(12):
            yield bytes(4_000_000)
        let_go.wait(60)

    with edge_before(backends, tmp_path, folder, **heap) as edge, channel_to(edge, folder) as channel:
        calls = [channel.stream_unary(LIST_MODELS).future(requests(), metadata=headers(folder)) for _ in range(8)]
        wait_until(lambda: any(call.done() for call in calls), "a call to be cut")
        with channel_to(edge, folder) as other:
            wait_until(lambda: code_of(other, headers(folder)) is grpc.StatusCode.OK, "others to be served")
        let_go.set()
