"""Connections that go silent: nothing comes through, and nobody is told."""

import threading
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from common.channel import open_channel
from common.errors import Unavailable
from protos.job.v1 import job_pb2, job_pb2_grpc
from tests.common.server.servicer import ExampleServicer, example_server
from tests.harness.proxy import Proxy
from tests.harness.settings import example_settings

_PATIENCE_S = 45


class Watched(ExampleServicer):
    """Sends one message and then nothing; notices when its caller has gone."""

    def __init__(self) -> None:
        super().__init__()
        self.gone = threading.Event()

    def WatchJob(
        self, request: job_pb2.WatchJobRequest, context: grpc.ServicerContext
    ) -> Iterator[job_pb2.WatchJobResponse]:
        context.add_callback(self.gone.set)
        yield job_pb2.WatchJobResponse()
        self.leave.wait(120)


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.timeout(90)
def test_both_ends_of_a_stream_without_a_deadline_notice_that_the_other_has_gone(tmp_path: Path) -> None:
    servicer = Watched()
    with (
        example_server(example_settings(tmp_path), servicer) as server,
        Proxy(server.address) as proxy,
        open_channel(proxy.address) as channel,
    ):
        # A deadline for the test's sake: gRPC's own patience is a minute or, where nothing is under way, endless.
        request = job_pb2.WatchJobRequest(name="quiet")
        stream = job_pb2_grpc.JobServiceStub(channel).WatchJob(request, timeout=_PATIENCE_S)
        next(stream)
        proxy.stall()
        with pytest.raises(Unavailable):
            next(stream)
        assert servicer.gone.wait(_PATIENCE_S)
        servicer.leave.set()
