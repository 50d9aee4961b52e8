"""A real registry, a real store and a real inference server, on free ports and in a home of their own."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from common.artifacts import ArtifactStore, open_store
from common.channel import open_channel
from protos.inference.v2.inference_pb2_grpc import GRPCInferenceServiceStub
from protos.registry.v1.registry_pb2_grpc import RegistryServiceStub
from services.inference.repository import Repository
from tests.harness.in_process import service_in_process
from tests.services.inference.models import Publisher
from tests.services.inference.opened import Opened


@dataclass(frozen=True)
class InferenceServer:
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
    with service_in_process("registry", tmp_path) as server:
        yield server.address


@pytest.fixture
def publisher(store: ArtifactStore, registry_address: str) -> Iterator[Publisher]:
    with open_channel(registry_address) as channel:
        yield Publisher(store, RegistryServiceStub(channel))


Serve = Callable[..., AbstractContextManager[InferenceServer]]


@pytest.fixture
def serve(tmp_path: Path, registry_address: str) -> Serve:
    """Starts an inference server on the home of the test; the registry may be another address."""

    @contextmanager
    def start(registry: str = registry_address) -> Iterator[InferenceServer]:
        with (
            service_in_process("inference", tmp_path, registry=registry, metrics_port=0) as server,
            open_channel(server.address) as channel,
        ):
            yield InferenceServer(server.address, GRPCInferenceServiceStub(channel), server.metrics_address)

    return start


@pytest.fixture
def served(serve: Serve) -> Iterator[InferenceServer]:
    with serve() as server:
        yield server


@pytest.fixture
def opened(tmp_path: Path, store: ArtifactStore, registry_address: str) -> Opened:
    return Opened(tmp_path, store, registry_address)


@pytest.fixture
def repository(opened: Opened) -> Iterator[Repository]:
    with opened() as repository:
        yield repository
