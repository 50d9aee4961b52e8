"""Every method of a real mesh x every way of having no business there, generated from the contracts."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import grpc
import pytest
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from common.auth import Role
from common.auth.tokens import AUDIENCE, ISSUER
from common.channel import open_channel
from common.errors import NotFound
from deepseek.client import MeshFile
from deepseek.embedded import Access
from deepseek.services import SERVICES
from tests.e2e.access import ATTEMPTS, REFUSED, GuardedMesh, of_another_tenant, requests_about
from tests.harness.contracts import Method, methods_of
from tests.harness.examples import Existing
from tests.harness.identity import bearer, new_authority
from tests.harness.mesh import embedded_mesh
from tests.services.trainer.tasks import PICTURE_FIELDS, picture_spec, pictures

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

OPEN_TO_ALL = "grpc.health.v1."


def offered(file: MeshFile, service: str, token_file: Path) -> Iterator[Method]:
    """What a server says itself that it offers."""
    with open_channel(file.services[service].address, identity=Path(file.identity), token_file=token_file) as channel:
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        names = [one.name for one in next(stub.ServerReflectionInfo(iter([request]))).list_services_response.service]
    for name in names:
        if not name.startswith(OPEN_TO_ALL):
            yield from methods_of(service, name)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GuardedMesh]:
    home = tmp_path_factory.mktemp("access")
    authority = new_authority(home / "identity", SERVICES)
    token_file = authority.write_token(home / "token")
    with embedded_mesh(home / "home", Access(authority.folder, token_file)) as mesh:
        methods = [method for service in SERVICES for method in offered(mesh.file, service, token_file)]
        yield GuardedMesh(mesh.file, authority, methods)


def test_the_servers_offer_what_the_contracts_say(guarded: GuardedMesh) -> None:
    assert ISSUER == AUDIENCE
    assert {method.service for method in guarded.methods} == set(SERVICES)
    assert len(guarded.methods) >= 40


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_every_method_refuses(guarded: GuardedMesh, attempt: str) -> None:
    holes = []
    for service in SERVICES:
        channels = {
            name: guarded.channel(service, guarded.authority.folder / name) for name in ("cli", "edge", *SERVICES)
        }
        for method in guarded.methods:
            if method.service != service:
                continue
            name, metadata = ATTEMPTS[attempt](guarded.authority, method)
            try:
                method.call(channels[name], b"", metadata)
                holes.append(f"{method.path} answered")
            except grpc.RpcError as error:
                if error.code() not in REFUSED:
                    holes.append(f"{method.path}: {error.code().name} {error.details()}")
        for channel in channels.values():
            channel.close()
    assert not holes


def test_every_method_lets_in_who_may(guarded: GuardedMesh) -> None:
    wrong = []
    for service in SERVICES:
        with guarded.channel(service, guarded.authority.folder / "cli") as channel:
            for method in guarded.methods:
                if method.service != service:
                    continue
                try:
                    method.call(channel, b"", bearer(guarded.authority.token(method.role)))
                except grpc.RpcError as error:
                    if error.code() in (*REFUSED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
                        wrong.append(f"{method.path}: {error.code().name} {error.details()}")
    assert not wrong


def test_without_a_certificate_there_is_no_connection(guarded: GuardedMesh) -> None:
    for service in SERVICES:
        address = guarded.file.services[service].address
        trusting = grpc.ssl_channel_credentials((guarded.authority.folder / "ca.pem").read_bytes())
        for channel in (grpc.secure_channel(address, trusting), grpc.insecure_channel(address)):
            with channel, pytest.raises(grpc.RpcError) as caught:
                guarded.methods[0].call(channel, b"", bearer(guarded.authority.token()))
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
    host, _, port = guarded.file.services["registry"].address.rpartition(":")
    with socket.create_connection((host, int(port))) as plain:
        plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
        assert b"SETTINGS" not in plain.recv(100)


@pytest.fixture(scope="module")
def existing(guarded: GuardedMesh, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Existing]:
    """What the tenant `lab` has, with a run that has succeeded."""
    with guarded.client(Role.ADMIN, "lab", tmp_path_factory.mktemp("lab")) as mesh:
        data = mesh.datasets.upload("d", PICTURE_FIELDS, pictures(8, 4)).name
        run, _ = mesh.runs.submit(picture_spec(data, epochs=1, num_workers=1))
        mesh.runs.wait(run.name)
        yield Existing(mesh, dataset_version=data, run=run.name)


@pytest.fixture(scope="module")
def requests(guarded: GuardedMesh, existing: Existing) -> dict[Method, bytes]:
    return requests_about(existing, guarded.methods)


def test_another_tenant_finds_nothing(guarded: GuardedMesh, requests: dict[Method, bytes]) -> None:
    wrong = []
    channels = {service: guarded.channel(service, guarded.authority.folder / "cli") for service in SERVICES}
    for method, request, missing in of_another_tenant(requests):
        theirs, own = (
            method.outcome(channels[method.service], request, bearer(guarded.authority.token(tenant=tenant)))
            for tenant in ("other", "lab")
        )
        if theirs != missing or own == missing:
            wrong.append(f"{method.path}: {theirs!r} for another, {own!r} for its own")
    for channel in channels.values():
        channel.close()
    assert not wrong


def test_another_tenants_calls_change_nothing(guarded: GuardedMesh, existing: Existing, tmp_path: Path) -> None:
    with guarded.client(Role.ADMIN, "other", tmp_path) as other, guarded.client(Role.ADMIN, "lab", tmp_path) as mesh:
        with suppress(NotFound):
            other.inference.unload("m")
        assert mesh.inference.metadata("m").name == "m"
        other.datasets.upload("d", PICTURE_FIELDS, pictures(4, 4))
        assert [version.name for version in mesh.datasets.versions("d")] == [existing["dataset_version"]]
