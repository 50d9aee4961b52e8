"""A registry and a watermark service that know their callers, in this process, for all tests of this folder."""

import hashlib
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from common.auth import Role
from common.auth.certificates import make_authority
from common.auth.tokens import issue_token
from common.channel import open_channel
from common.config import load_settings
from deepseek.models import manifest as model_manifest
from protos.artifact.v1 import artifact_pb2
from protos.registry.v1 import registry_pb2
from protos.registry.v1.registry_pb2_grpc import RegistryServiceStub
from protos.watermark.v1.watermark_pb2_grpc import WatermarkServiceStub
from services.registry.__main__ import build as build_registry
from services.registry.settings import RegistrySettings
from services.watermark.__main__ import build
from services.watermark.master_key import FILE_NAME
from services.watermark.settings import WatermarkSettings


@dataclass(frozen=True)
class Site:
    """Both services.

    Attributes:
        home: Their home.
        registry: Address of the registry.
        watermark: Address of the watermark service.
        owned: Closes what is opened.
    """

    home: Path
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
        folder, token_file = self.home / "identity", self.home / f"{tenant}-{role}"
        key = folder / "signing" / "key.pem"
        token_file.write_text(issue_token(key, "ana", tenant=tenant, role=role, lifetime_s=3600), encoding="ascii")
        return self.owned.enter_context(open_channel(address, identity=folder / "cli", token_file=token_file))


def write_master_key(home: Path) -> None:
    """Makes the keys of a home the same in every run."""
    path = home / FILE_NAME
    path.write_bytes(bytes(range(32)))
    path.chmod(0o600)


def model_version(site: Site, tenant: str) -> str:
    """A model version of the tenant."""
    manifest = artifact_pb2.Artifact(sha256="ab" * 32, size_bytes=1, media_type=model_manifest.MEDIA_TYPE)
    request = registry_pb2.CreateModelVersionRequest(parent="models/m", manifest=manifest)
    name: str = site.marks(tenant).CreateModelVersion(request).model_version.name
    return name


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    home = tmp_path_factory.mktemp("watermark") / "home"
    home.mkdir()
    write_master_key(home)
    folder = home / "identity"
    make_authority(folder, ["registry", "watermark"])
    flags = ["--home", str(home), "--port", "0"]
    with ExitStack() as owned:
        settings = load_settings(RegistrySettings, [*flags, "--identity", str(folder / "registry")])
        registry = owned.enter_context(build_registry(settings, owned))
        more = ["--identity", str(folder / "watermark"), "--registry", registry.address]
        watermark = owned.enter_context(build(load_settings(WatermarkSettings, [*flags, *more]), owned))
        yield Site(home, registry.address, watermark.address, owned)


@pytest.fixture
def tenant(request: pytest.FixtureRequest) -> str:
    """A tenant of the test alone, the same in every run: by chance one key in a hundred is not sure of no mark."""
    return f"lab-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:16]}"


@pytest.fixture
def client(site: Site, tenant: str) -> WatermarkServiceStub:
    """An admin of the tenant."""
    return site.client(tenant)
