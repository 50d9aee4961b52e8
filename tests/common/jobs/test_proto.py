"""Job <-> deepseek.job.v1.Job."""

from pathlib import Path

import pytest

from common.errors import InvalidArgument
from common.jobs import Job, JobError, JobState
from common.jobs.proto import job_to_proto, state_from_proto
from protos.job.v1 import job_pb2

JOB = Job(
    name="jobs/abc",
    tenant="default",
    kind="trainer.run",
    state=JobState.FAILED,
    progress=0.5,
    message="epoch 2",
    error=JobError("INVALID_ARGUMENT", "BAD_VALUE", "wrong", "spec.epochs"),
    result="runs/abc",
    attempt=3,
    spec="{}",
    create_us=1_700_000_000_000_001,
    start_us=1_700_000_000_000_002,
    end_us=1_700_000_000_000_003,
)


def test_all_that_a_job_says_is_in_its_message() -> None:
    message = job_to_proto(JOB)

    assert (message.name, message.kind, message.state) == ("jobs/abc", "trainer.run", job_pb2.JOB_STATE_FAILED)
    assert (message.progress, message.message, message.result, message.attempt) == (0.5, "epoch 2", "runs/abc", 3)
    assert (message.error.code, message.error.reason) == ("INVALID_ARGUMENT", "BAD_VALUE")
    assert (message.error.message, message.error.field) == ("wrong", "spec.epochs")
    assert message.create_time.ToMicroseconds() == JOB.create_us
    assert message.start_time.ToMicroseconds() == JOB.start_us
    assert message.end_time.ToMicroseconds() == JOB.end_us


def test_paths_of_the_server_are_in_no_message(tmp_path: Path) -> None:
    error = JobError("RESOURCE_EXHAUSTED", "DISK_FULL", f"no space left for files in {tmp_path}; free some", "path")
    message = job_to_proto(Job(**{**vars(JOB), "error": error, "message": f"writes {tmp_path}/model.onnx"}))
    assert message.error.message == "no space left for files in <path>; free some"
    assert message.message == "writes <path>"


def test_what_a_waiting_job_has_not_is_unset() -> None:
    waiting = Job(**{**vars(JOB), "state": JobState.PENDING, "error": None, "start_us": None, "end_us": None})

    message = job_to_proto(waiting)

    assert not any(message.HasField(field) for field in ("error", "start_time", "end_time"))


def test_every_state_has_its_number() -> None:
    for number in job_pb2.JobState.values():
        state = state_from_proto(number)
        if state is None:
            assert number == job_pb2.JOB_STATE_UNSPECIFIED
        else:
            assert job_pb2.JobState.Name(number) == f"JOB_STATE_{state.name}"
    with pytest.raises(InvalidArgument) as caught:
        state_from_proto(99)  # type: ignore[arg-type]
    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", "state")
