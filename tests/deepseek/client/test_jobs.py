"""Waiting for jobs."""

import grpc

from deepseek.client import jobs
from protos.job.v1 import job_pb2


def test_the_first_state_of_a_job_is_reported_at_once() -> None:
    seen: list[job_pb2.Job] = []
    job = job_pb2.Job(name="jobs/a", state=job_pb2.JOB_STATE_SUCCEEDED)
    with grpc.insecure_channel("localhost:1") as channel:
        assert jobs.wait(channel, job, on_change=seen.append) == job
    assert seen == [job]
