"""A real registry, a real store and a real inference server, on free ports and in a home of their own."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

import services.inference.__main__ as inference_main
import services.registry.__main__ as registry_main
from common.artifacts import ArtifactStore, open_store
from common.channel import open_channel
from common.config import load_settings
from protos.inference.v2.inference_pb2_grpc import GRPCInferenceServiceStub
from protos.registry.v1.registry_pb2_grpc import RegistryServiceStub
from services.inference.settings import InferenceSettings
from services.registry.settings import RegistrySettings
from tests.services.inference.models import Publisher


@dataclass(frozen=True)
class Served:
    """A running inference server.

    Attributes:
        address: Where it answers.
        stub: A client of ours.
        metrics: `host:port` of its metrics.
    """

    address: str
    stub: GRPCInferenceServiceStub
    metrics: str


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return open_store(f"file://{tmp_path}/store")


@pytest.fixture
def registry_address(tmp_path: Path) -> Iterator[str]:
    settings = load_settings(RegistrySettings, ["--home", str(tmp_path), "--port", "0"])
    with ExitStack() as owned, registry_main.build(settings, owned) as server:
        yield server.address


@pytest.fixture
def publisher(store: ArtifactStore, registry_address: str) -> Iterator[Publisher]:
    with open_channel(registry_address) as channel:
        yield Publisher(store, RegistryServiceStub(channel))


Serve = Callable[..., AbstractContextManager[Served]]


@pytest.fixture
def serve(tmp_path: Path, registry_address: str) -> Serve:
    """Starts an inference server on the home of the test; the registry may be another address."""

    @contextmanager
    def start(registry: str = registry_address) -> Iterator[Served]:
        flags = ["--home", str(tmp_path), "--port", "0", "--registry", registry, "--metrics-port", "0"]
        settings = load_settings(InferenceSettings, flags)
        with (
            ExitStack() as owned,
            inference_main.build(settings, owned) as server,
            open_channel(server.address) as channel,
        ):
            yield Served(server.address, GRPCInferenceServiceStub(channel), server.metrics_address)

    return start


@pytest.fixture
def served(serve: Serve) -> Iterator[Served]:
    with serve() as server:
        yield server
