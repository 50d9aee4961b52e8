"""Runs take turns: one is executed, the others wait, and exports do not wait for them."""

import os

import pytest

from protos.job.v1 import job_pb2
from protos.trainer.v1 import trainer_pb2 as pb
from tests.services.trainer.conftest import TrainerMesh
from tests.services.trainer.tasks import picture_spec


def states(mesh: TrainerMesh, name: str) -> list[int]:
    """The states in a run's history, up to its end."""
    return [event.state.state for event in mesh.watch(name) if event.HasField("state")]


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_runs_wait_for_their_turn_and_exports_do_not(mesh: TrainerMesh, trained: pb.Run) -> None:
    first = mesh.submit(picture_spec(mesh.pictures, seed=60, epochs=10_000)).name
    begun = next(event.attempt for event in mesh.watch(first) if event.HasField("attempt"))
    assert begun.attempt == 1
    second, third = (mesh.submit(picture_spec(mesh.pictures, seed=seed, epochs=1)) for seed in (61, 62))
    for waiting, place in ((second, ""), (third, "; number 2 in line")):
        assert waiting.job.state == job_pb2.JOB_STATE_PENDING
        assert waiting.job.message == f"waits for {first}{place}"
        assert waiting.num_threads == 0
        assert mesh.jobs.GetJob(job_pb2.GetJobRequest(name=waiting.job.name)).job == waiting.job

    exported = mesh.runs.ExportModel(pb.ExportModelRequest(run=trained.name, model="models/turns")).job.name
    *_, export = mesh.jobs.WatchJob(job_pb2.WatchJobRequest(name=exported), timeout=240)
    assert export.job.state == job_pb2.JOB_STATE_SUCCEEDED

    # No worker has to notice that a waiting run is stopped.
    stopped = mesh.runs.StopRun(pb.StopRunRequest(name=second.name)).run
    assert stopped.job.state == job_pb2.JOB_STATE_CANCELLED
    assert stopped.job.message == ""
    assert states(mesh, second.name) == [job_pb2.JOB_STATE_PENDING, job_pb2.JOB_STATE_CANCELLED]
    assert mesh.run(first).job.state == job_pb2.JOB_STATE_RUNNING
    assert mesh.run(third.name).job.state == job_pb2.JOB_STATE_PENDING

    mesh.runs.StopRun(pb.StopRunRequest(name=first))
    assert states(mesh, third.name)[-1] == job_pb2.JOB_STATE_SUCCEEDED
    assert mesh.run(third.name).num_threads == max(1, len(os.sched_getaffinity(0)) // 2)
