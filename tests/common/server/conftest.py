"""A server of the example servicer, and a client of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.channel import open_channel
from common.server import MeshServer
from protos.job.v1 import job_pb2_grpc
from tests.common.server.servicer import ExampleServicer, example_server
from tests.harness.settings import example_settings


@pytest.fixture
def servicer() -> Iterator[ExampleServicer]:
    servicer = ExampleServicer()
    yield servicer
    servicer.leave.set()


@pytest.fixture
def server(servicer: ExampleServicer, tmp_path: Path) -> Iterator[MeshServer]:
    settings = example_settings(tmp_path, "--max-streams", "2", "--unary-workers", "2", "--max-message-bytes", "100000")
    with example_server(settings, servicer) as server:
        yield server
        servicer.leave.set()


@pytest.fixture
def stub(server: MeshServer) -> Iterator[job_pb2_grpc.JobServiceStub]:
    with open_channel(server.address) as channel:
        yield job_pb2_grpc.JobServiceStub(channel)
