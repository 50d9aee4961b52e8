"""Who gets in over TLS, against a real server; what the servicer learns of them."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import grpc
import pytest

from common.auth import Role
from common.auth.certificates import make_authority, renew, rotate_signing_key
from common.auth.identity import TENANT_HEADER, Identity, on_behalf_of
from common.auth.tokens import issue_token
from common.channel import open_channel
from common.database import Database
from common.errors import (
    FailedPrecondition,
    InvalidArgument,
    MeshError,
    PermissionDenied,
    ResourceExhausted,
    Unauthenticated,
    Unavailable,
)
from common.files import replace_file
from common.server import MeshServer, caller
from common.server.slow_requests import MAX_SLOW_PER_TENANT
from common.server.telemetry import Telemetry
from protos.job.v1 import job_pb2, job_pb2_grpc
from tests.common.server.servicer import ExampleServicer, example_server
from tests.harness.processes import wait_until
from tests.harness.settings import CalledSettings, example_settings


class Servicer(ExampleServicer):
    """Answers with its caller."""

    def GetJob(self, request: job_pb2.GetJobRequest, context: grpc.ServicerContext) -> job_pb2.GetJobResponse:
        who = caller(context)
        return job_pb2.GetJobResponse(job=job_pb2.Job(name=f"{who.tenant} {who.subject} {who.role}"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A separate authority for each test: tests rotate its keys and renew its certificates."""
    folder = tmp_path / "authority" / "identity"
    make_authority(folder, ["registry", "trainer", "stranger"])
    return folder


@pytest.fixture
def server(folder: Path, tmp_path: Path) -> Iterator[MeshServer]:
    servicer = Servicer()
    settings = example_settings(tmp_path, "--identity", str(folder / "registry"), cls=CalledSettings)
    with example_server(settings, servicer) as server:
        yield server
        servicer.leave.set()


@pytest.fixture
def token(folder: Path, tmp_path: Path) -> Path:
    return token_for(folder, tmp_path / "token", Role.READER)


def token_for(folder: Path, path: Path, role: Role) -> Path:
    made = issue_token(folder / "signing" / "key.pem", "ana", tenant="lab", role=role, lifetime_s=60)
    replace_file(path, made.encode())
    return path


def ask(
    server: MeshServer, identity: Path | None, token_file: Path | None = None, metadata: Sequence[tuple[str, str]] = ()
) -> str:
    with open_channel(server.address, identity=identity, token_file=token_file, retry=False) as channel:
        stub = job_pb2_grpc.JobServiceStub(channel)
        return str(stub.GetJob(job_pb2.GetJobRequest(name="x"), metadata=metadata, timeout=10).job.name)


def test_users_come_in_by_the_edge_or_the_command_line_with_a_token(
    server: MeshServer, folder: Path, token: Path
) -> None:
    for speaker in ("edge", "cli"):
        assert ask(server, folder / speaker, token) == "lab ana reader"


def test_a_service_acts_for_the_tenant_that_it_names(server: MeshServer, folder: Path) -> None:
    assert ask(server, folder / "trainer", metadata=on_behalf_of("lab")) == "lab service:trainer writer"


def test_who_has_no_certificate_of_the_mesh_gets_no_connection(
    server: MeshServer, folder: Path, token: Path, tmp_path: Path
) -> None:
    make_authority(tmp_path / "other", ["trainer"])
    mixed, bare = tmp_path / "mixed", tmp_path / "bare"
    for place in (mixed, bare):
        place.mkdir()
        (place / "ca.pem").write_bytes((folder / "ca.pem").read_bytes())
    for name in ("cert.pem", "key.pem"):
        (mixed / name).write_bytes((tmp_path / "other" / "cli" / name).read_bytes())
    for identity in (None, bare, mixed, tmp_path / "other" / "cli"):
        with pytest.raises(Unavailable):
            ask(server, identity, token if identity else None)


@pytest.mark.parametrize(
    ("name", "with_token", "metadata", "error", "reason"),
    [
        ("cli", False, (), Unauthenticated, "TOKEN_MISSING"),
        ("edge", False, (), Unauthenticated, "TOKEN_MISSING"),
        ("cli", False, (("authorization", "Basic YTpi"),), Unauthenticated, "TOKEN_MISSING"),
        ("cli", False, (("authorization", "Bearer x"),), Unauthenticated, "BAD_TOKEN"),
        ("edge", True, ((TENANT_HEADER, "lab"),), PermissionDenied, "FORGED_IDENTITY"),
        ("cli", True, ((TENANT_HEADER, "other"),), PermissionDenied, "FORGED_IDENTITY"),
        ("trainer", False, (), Unauthenticated, "TENANT_MISSING"),
        ("trainer", True, (), Unauthenticated, "TENANT_MISSING"),
        ("trainer", False, ((TENANT_HEADER, "../x"),), Unauthenticated, "BAD_NAME"),
        ("stranger", False, ((TENANT_HEADER, "lab"),), PermissionDenied, "SERVICE_NOT_ALLOWED"),
        ("registry", False, ((TENANT_HEADER, "lab"),), PermissionDenied, "SERVICE_NOT_ALLOWED"),
    ],
)
def test_who_cannot_show_who_they_are_is_refused(
    server: MeshServer,
    folder: Path,
    token: Path,
    name: str,
    with_token: bool,
    metadata: Sequence[tuple[str, str]],
    error: type[MeshError],
    reason: str,
) -> None:
    with pytest.raises(error) as caught:
        ask(server, folder / name, token if with_token else None, metadata)
    assert caught.value.reason == reason


def test_a_role_below_that_of_the_method_is_refused(server: MeshServer, folder: Path, tmp_path: Path) -> None:
    reader, writer = (token_for(folder, tmp_path / role.name, role) for role in (Role.READER, Role.WRITER))
    request = job_pb2.CancelJobRequest(name="x")
    with open_channel(server.address, identity=folder / "cli", token_file=reader) as channel:
        with pytest.raises(PermissionDenied) as caught:
            job_pb2_grpc.JobServiceStub(channel).CancelJob(request)
        assert caught.value.reason == "ROLE_MISSING"
    with open_channel(server.address, identity=folder / "cli", token_file=writer) as channel:
        with pytest.raises(MeshError) as passed:
            job_pb2_grpc.JobServiceStub(channel).CancelJob(request)
        assert passed.value.code == "UNIMPLEMENTED"  # by the example servicer, behind the interceptor


def test_a_stream_is_refused_as_a_single_call_is(server: MeshServer, folder: Path) -> None:
    with (
        open_channel(server.address, identity=folder / "cli") as channel,
        pytest.raises(Unauthenticated),
    ):
        next(job_pb2_grpc.JobServiceStub(channel).WatchJob(job_pb2.WatchJobRequest(name="x")))


def test_a_renewed_token_file_is_taken_up(server: MeshServer, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "renewed"
    path.write_text("nonsense", encoding="ascii")
    with open_channel(server.address, identity=folder / "cli", token_file=path) as channel:
        stub = job_pb2_grpc.JobServiceStub(channel)
        with pytest.raises(Unauthenticated):
            stub.GetJob(job_pb2.GetJobRequest())
        token_for(folder, path, Role.READER)
        from tests.harness.processes import wait_until

        def answers() -> bool:
            try:
                return bool(stub.GetJob(job_pb2.GetJobRequest()).job.name)
            except Unauthenticated:
                return False

        wait_until(answers, "the new token")


def test_renewed_certificates_count_without_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "identity"
    make_authority(folder, ["registry"])
    settings = example_settings(tmp_path, "--identity", str(folder / "registry"))
    token = token_for(folder, tmp_path / "token", Role.READER)
    with example_server(settings, Servicer()) as server:
        before = served_certificate(server, folder)
        assert ask(server, folder / "cli", token)
        assert renew(folder) == ["cli", "edge", "registry"]
        assert ask(server, folder / "cli", token)
        assert served_certificate(server, folder) != before


def served_certificate(server: MeshServer, folder: Path) -> bytes:
    import socket
    import ssl

    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "cli" / "cert.pem", folder / "cli" / "key.pem")
    context.set_alpn_protocols(["h2"])
    with (
        socket.create_connection(("127.0.0.1", server.port)) as plain,
        context.wrap_socket(plain, server_hostname="registry") as connection,
    ):
        certificate = connection.getpeercert(binary_form=True)
        assert certificate
        return certificate


def test_a_token_is_never_sent_in_the_clear(token: Path) -> None:
    with pytest.raises(InvalidArgument) as caught:
        open_channel("127.0.0.1:1", token_file=token)
    assert (caught.value.reason, caught.value.field) == ("TOKEN_WITHOUT_TLS", "identity")


def test_a_folder_without_certificates_says_what_to_do(tmp_path: Path) -> None:
    for make in (Identity(tmp_path).channel_credentials, Identity(tmp_path).server_credentials):
        with pytest.raises(FailedPrecondition, match="deepseek certs init") as caught:
            make()
        assert caught.value.reason == "BAD_IDENTITY"


def test_calls_that_are_refused_count_too_and_are_on_record_only_below_the_rate(folder: Path, tmp_path: Path) -> None:
    flags = ("--identity", str(folder / "registry"), "--burst", "3", "--rate", "0.001")
    token = token_for(folder, tmp_path / "token", Role.PREDICTOR)
    settings = example_settings(tmp_path, *flags, cls=CalledSettings)
    reasons = []
    with closing(Database(settings.state_url)) as database:
        database.migrate()
        with (
            closing(Telemetry(settings, database)) as telemetry,
            example_server(settings, Servicer(), telemetry=telemetry) as server,
        ):
            for _ in range(5):
                with pytest.raises(MeshError) as caught:
                    ask(server, folder / "cli", token)
                reasons.append(caught.value.reason)
    assert reasons == ["ROLE_MISSING"] * 3 + ["RATE_EXCEEDED"] * 2
    recorded = [json.loads(line)["outcome"]["reason"] for line in settings.audit_file.read_text().splitlines()]
    assert recorded == ["ROLE_MISSING"] * 3


def half_sent(channel: grpc.Channel, let_go: threading.Event, token_file: Path | None = None) -> Any:
    """Begins a call of one request and does not send it."""

    def requests() -> Iterator[bytes]:
        let_go.wait(60)
        yield b""

    metadata = (("authorization", f"Bearer {token_file.read_text()}"),) if token_file else ()
    return channel.stream_unary("/deepseek.job.v1.JobService/GetJob").future(requests(), metadata=metadata, timeout=60)


@pytest.fixture
def let_go() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


NUM_HALF_SENT = 60
"""More than a server has threads."""


def test_who_is_not_let_in_is_refused_before_their_request_is_there(
    server: MeshServer, folder: Path, let_go: threading.Event
) -> None:
    with grpc.secure_channel(server.address, Identity(folder / "cli").channel_credentials()) as channel:
        calls = [half_sent(channel, let_go) for _ in range(NUM_HALF_SENT)]
        assert {call.code() for call in calls} == {grpc.StatusCode.UNAUTHENTICATED}


def test_requests_that_do_not_come_stop_neither_others_nor_a_few_slow_ones(
    server: MeshServer, folder: Path, tmp_path: Path, let_go: threading.Event
) -> None:
    idle = token_for(folder, tmp_path / "idle", Role.PREDICTOR)
    other = issue_token(folder / "signing" / "key.pem", "ben", tenant="other", role=Role.READER, lifetime_s=600)
    replace_file(tmp_path / "other", other.encode())
    with grpc.secure_channel(server.address, Identity(folder / "cli").channel_credentials()) as channel:
        calls = [half_sent(channel, let_go, idle) for _ in range(NUM_HALF_SENT)]
        wait_until(lambda: sum(call.done() for call in calls) == NUM_HALF_SENT - MAX_SLOW_PER_TENANT, "calls to be cut")
        assert ask(server, folder / "cli", tmp_path / "other") == "other ben reader"
        with pytest.raises(ResourceExhausted) as paused:
            ask(server, folder / "cli", idle)
        assert paused.value.reason == "RATE_EXCEEDED"
        let_go.set()
        left = [
            call for call in calls if call.code() not in (grpc.StatusCode.CANCELLED, grpc.StatusCode.RESOURCE_EXHAUSTED)
        ]
        assert {call.code() for call in left} == {grpc.StatusCode.PERMISSION_DENIED}


def test_a_request_that_is_not_there_at_the_deadline_is_waited_for_no_longer(
    folder: Path, tmp_path: Path, token: Path, let_go: threading.Event
) -> None:
    flags = ("--identity", str(folder / "registry"), "--deadline-s", "1.5")
    with (
        example_server(example_settings(tmp_path, *flags, cls=CalledSettings), Servicer()) as server,
        grpc.secure_channel(server.address, Identity(folder / "cli").channel_credentials()) as channel,
    ):
        assert half_sent(channel, let_go, token).code() is grpc.StatusCode.CANCELLED


def test_calls_of_strangers_do_not_fill_the_audit_log(folder: Path, tmp_path: Path) -> None:
    settings = example_settings(tmp_path, "--identity", str(folder / "registry"), cls=CalledSettings)
    with closing(Database(settings.state_url)) as database:
        database.migrate()
        with (
            closing(Telemetry(settings, database)) as telemetry,
            example_server(settings, Servicer(), telemetry=telemetry) as server,
            open_channel(server.address, identity=folder / "cli", retry=False) as channel,
        ):
            for _ in range(300):
                with pytest.raises(Unauthenticated):
                    job_pb2_grpc.JobServiceStub(channel).GetJob(job_pb2.GetJobRequest())
    assert 100 <= len(settings.audit_file.read_text().splitlines()) < 200


def test_a_call_without_a_request_is_refused(server: MeshServer, folder: Path, token: Path) -> None:
    with open_channel(server.address, identity=folder / "cli", token_file=token) as channel:
        call = channel.stream_unary("/deepseek.job.v1.JobService/GetJob")
        with pytest.raises(InvalidArgument, match="ended without a request"):
            call(iter(()), timeout=30)


@pytest.mark.parametrize("end", ["revoked", "expired"])
def test_a_stream_ends_with_the_token_that_opened_it(tmp_path: Path, end: str) -> None:
    folder = tmp_path / "authority"
    make_authority(folder, ["registry"])
    lifetime_s = 10 if end == "expired" else 600
    token = issue_token(folder / "signing" / "key.pem", "ana", tenant="lab", role=Role.READER, lifetime_s=lifetime_s)
    replace_file(tmp_path / "token", token.encode())

    class Endless(ExampleServicer):
        def WatchJob(self, request: Any, context: grpc.ServicerContext) -> Iterator[job_pb2.WatchJobResponse]:
            while not self.leave.wait(0.1):
                yield job_pb2.WatchJobResponse()

    flags = ("--identity", str(folder / "registry"), "--token-leeway-s", "0")
    settings = example_settings(tmp_path, *flags, cls=CalledSettings)
    servicer = Endless()
    with (
        example_server(settings, servicer) as server,
        open_channel(server.address, identity=folder / "cli", token_file=tmp_path / "token", retry=False) as channel,
    ):
        watch = job_pb2_grpc.JobServiceStub(channel).WatchJob(job_pb2.WatchJobRequest(name="x"), timeout=60)
        next(watch)
        if end == "revoked":
            rotate_signing_key(folder, revoke=True)
        with pytest.raises(Unauthenticated):
            list(watch)
        servicer.leave.set()
