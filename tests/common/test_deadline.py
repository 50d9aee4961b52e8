"""What is left of a call's time."""

import time
from pathlib import Path
from queue import Queue

import grpc
import pytest

from common.channel import open_channel
from common.deadline import until, within
from common.errors import DeadlineExceeded, MeshError
from protos.job.v1 import job_pb2, job_pb2_grpc
from tests.common.server.servicer import ExampleServicer, example_server
from tests.harness.settings import example_settings


def test_the_shorter_of_timeout_and_deadline_counts() -> None:
    assert (within(None), within(5)) == (None, 5)
    with until(time.monotonic() + 3):
        assert within(1) == 1
        assert within(None) == pytest.approx(3, abs=1)
        assert within(60) == pytest.approx(3, abs=1)
        with until(time.monotonic() - 1):
            assert within(60) == 0
    assert within(5) == 5


def test_a_call_made_for_another_gets_the_time_that_is_left(tmp_path: Path) -> None:
    class Slow(ExampleServicer):
        def GetJob(self, request: job_pb2.GetJobRequest, context: grpc.ServicerContext) -> job_pb2.GetJobResponse:
            self.leave.wait(60)
            return job_pb2.GetJobResponse()

    failures: Queue[MeshError] = Queue()

    class Asking(ExampleServicer):
        def GetJob(self, request: job_pb2.GetJobRequest, context: grpc.ServicerContext) -> job_pb2.GetJobResponse:
            try:
                with open_channel(behind.address, retry=False) as channel:
                    job_pb2_grpc.JobServiceStub(channel).GetJob(request)
            except MeshError as error:
                failures.put(error)
            return job_pb2.GetJobResponse()

    slow = Slow()
    with (
        example_server(example_settings(tmp_path / "behind"), slow) as behind,
        example_server(example_settings(tmp_path / "front"), Asking()) as front,
        open_channel(front.address, retry=False) as channel,
    ):
        with pytest.raises(DeadlineExceeded):
            job_pb2_grpc.JobServiceStub(channel).GetJob(job_pb2.GetJobRequest(name="jobs/x"), timeout=1)
        assert isinstance(failures.get(timeout=20), DeadlineExceeded)  # the channel's own deadline is 30 s
        slow.leave.set()
