"""A registry and a watermark service that know their callers, in this process, for all tests of this folder."""

import hashlib
import random
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from common.auth import Role
from common.channel import open_channel
from deepseek.models import manifest as model_manifest
from protos.artifact.v1 import artifact_pb2
from protos.registry.v1 import registry_pb2
from protos.registry.v1.registry_pb2_grpc import RegistryServiceStub
from protos.watermark.v1.watermark_pb2_grpc import WatermarkServiceStub
from services.registry import watermarks
from services.watermark import keys
from services.watermark.master_key import FILE_NAME
from tests.harness.identity import Authority, new_authority
from tests.harness.in_process import service_in_process


@dataclass(frozen=True)
class WatermarkMesh:
    """Both services.

    Attributes:
        home: Their home.
        authority: Knows the callers.
        registry: Address of the registry.
        watermark: Address of the watermark service.
        owned: Closes what is opened.
    """

    home: Path
    authority: Authority
    registry: str
    watermark: str
    owned: ExitStack

    def client(self, tenant: str, role: Role = Role.ADMIN) -> WatermarkServiceStub:
        """A client of the watermark service."""
        return WatermarkServiceStub(self._channel(self.watermark, tenant, role))

    def marks(self, tenant: str) -> RegistryServiceStub:
        """A client of the registry."""
        return RegistryServiceStub(self._channel(self.registry, tenant, Role.WRITER))

    def _channel(self, address: str, tenant: str, role: Role) -> grpc.Channel:
        token_file = self.authority.write_token(self.home / f"{tenant}-{role}", role, tenant)
        channel = open_channel(address, identity=self.authority.identity("cli"), token_file=token_file)
        return self.owned.enter_context(channel)


def write_master_key(home: Path) -> None:
    """Makes the keys of a home the same in every run."""
    path = home / FILE_NAME
    path.write_bytes(bytes(range(32)))
    path.chmod(0o600)


def model_version(mesh: WatermarkMesh, tenant: str) -> str:
    """A model version of the tenant."""
    manifest = artifact_pb2.Artifact(sha256="ab" * 32, size_bytes=1, media_type=model_manifest.MEDIA_TYPE)
    request = registry_pb2.CreateModelVersionRequest(parent="models/m", manifest=manifest)
    name: str = mesh.marks(tenant).CreateModelVersion(request).model_version.name
    return name


def registered(mesh: WatermarkMesh, tenant: str) -> list[registry_pb2.Watermark]:
    """The marks of a tenant that the registry knows."""
    return list(mesh.marks(tenant).ListWatermarks(registry_pb2.ListWatermarksRequest()).watermarks)


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WatermarkMesh]:
    home = tmp_path_factory.mktemp("watermark") / "home"
    home.mkdir()
    write_master_key(home)
    authority = new_authority(home / "identity", ["registry", "watermark"])
    with ExitStack() as owned:
        identities = {name: authority.identity(name) for name in ("registry", "watermark")}
        registry = owned.enter_context(service_in_process("registry", home, identity=identities["registry"]))
        callee = {"registry": registry.address, "identity": identities["watermark"]}
        watermark = owned.enter_context(service_in_process("watermark", home, **callee))
        yield WatermarkMesh(home, authority, registry.address, watermark.address, owned)


@pytest.fixture
def tenant(request: pytest.FixtureRequest) -> str:
    """A tenant of the test alone, the same in every run: by chance one key in a hundred is not sure of no mark."""
    return f"lab-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]}"


@pytest.fixture(autouse=True)
def _same_marks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes the ids and origins of a test's marks the same in every run: by chance a mark in some hundred is weak."""
    draw = random.Random(request.node.nodeid)
    monkeypatch.setattr(watermarks.secrets, "randbits", draw.getrandbits)
    monkeypatch.setattr(keys, "new_id", lambda: f"{draw.getrandbits(64):016x}")


@pytest.fixture
def client(mesh: WatermarkMesh, tenant: str) -> WatermarkServiceStub:
    """An admin of the tenant."""
    return mesh.client(tenant)
