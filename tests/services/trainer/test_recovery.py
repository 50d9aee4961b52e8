"""Whatever is killed whenever: one writer, no process left over, and the same weights at the end."""

import os
import signal

import pytest

from protos.job.v1 import job_pb2
from protos.trainer.v1 import trainer_pb2 as pb
from tests.harness.processes import wait_until, workers
from tests.services.trainer.conftest import TrainerMesh
from tests.services.trainer.tasks import picture_spec

pytestmark = [pytest.mark.faults, pytest.mark.slow]


def wait_for_checkpoint(mesh: TrainerMesh, name: str, *, start: int = 1) -> int:
    """Waits for a checkpoint of the workers' n-th start, and returns its step."""
    num_starts = 0
    for event in mesh.watch(name):
        num_starts += event.HasField("attempt")
        if num_starts == start and event.HasField("checkpoint"):
            return event.checkpoint.step
    raise AssertionError("the run ended before")


def kill(pids: list[int]) -> None:
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def long_spec(mesh: TrainerMesh) -> dict[str, object]:
    # Each mesh would measure on its own which format `auto` is.
    return picture_spec(mesh.pictures, epochs=100, checkpoint_interval_s=0.3, precision="PRECISION_FP32")


@pytest.fixture(scope="session")
def undisturbed(mesh: TrainerMesh) -> pb.Run:
    """The long run as it is when nothing happens."""
    name = mesh.submit(long_spec(mesh)).name
    for _ in mesh.watch(name):
        pass
    return mesh.run(name)


@pytest.mark.timeout(1200)
def test_a_run_that_was_killed_in_every_way_ends_with_the_same_weights(
    undisturbed: pb.Run, own_mesh: TrainerMesh
) -> None:
    mesh = own_mesh
    name = mesh.submit(long_spec(mesh)).name

    wait_for_checkpoint(mesh, name, start=1)
    kill(workers(mesh.home)[:1])
    wait_for_checkpoint(mesh, name, start=2)
    kill(workers(mesh.home, agents=True))
    step = wait_for_checkpoint(mesh, name, start=3)

    mesh.trainer.kill()
    wait_until(lambda: not workers(mesh.home), "the workers to follow their trainer", timeout_s=60)
    wait_until(lambda: not workers(mesh.home, agents=True), "their agent to follow", timeout_s=60)
    mesh.trainer.start()

    events = list(mesh.watch(name))
    run = mesh.run(name)
    assert run.job.state == job_pb2.JOB_STATE_SUCCEEDED, run.job
    assert run.job.attempt == 2
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    starts = [event.attempt for event in events if event.HasField("attempt")]
    assert [start.attempt for start in starts] == [1, 1, 1, 2]
    checkpoints = {0} | {event.checkpoint.step for event in events if event.HasField("checkpoint")}
    assert all(start.start_step in checkpoints for start in starts)
    assert starts[-1].start_step >= step
    assert run.checkpoint.sha256 == undisturbed.checkpoint.sha256
    assert {m.name: m.value for m in run.metrics} == {m.name: m.value for m in undisturbed.metrics}
    assert (run.best_step, run.best_epoch) == (undisturbed.best_step, undisturbed.best_epoch)


@pytest.mark.timeout(1200)
def test_a_trainer_that_is_told_to_stop_saves_first_and_goes_on_later(
    undisturbed: pb.Run, own_mesh: TrainerMesh
) -> None:
    mesh = own_mesh
    name = mesh.submit(long_spec(mesh)).name
    wait_for_checkpoint(mesh, name)

    mesh.trainer.close()
    assert not workers(mesh.home)
    assert not workers(mesh.home, agents=True)
    mesh.trainer.start()

    mesh.reconnect()
    events = list(mesh.watch(name))
    run = mesh.run(name)
    assert run.job.state == job_pb2.JOB_STATE_SUCCEEDED, run.job
    second = [event.sequence for event in events if event.HasField("attempt")][1]
    before = [event for event in events if event.sequence < second]
    # The save on request came after everything else, so nothing is done twice.
    assert before[-1].HasField("checkpoint")
    assert events[second - 1].attempt.start_step == before[-1].checkpoint.step
    assert run.checkpoint.sha256 == undisturbed.checkpoint.sha256


def test_a_trainer_that_is_killed_while_its_workers_start_leaves_none(own_mesh: TrainerMesh) -> None:
    mesh = own_mesh
    mesh.submit(long_spec(mesh))
    wait_until(lambda: bool(workers(mesh.home, agents=True)), "the agent to start")
    mesh.trainer.kill()
    wait_until(lambda: not workers(mesh.home, agents=True), "the agent to follow", timeout_s=60)
    assert not workers(mesh.home)


def test_a_run_that_is_stopped_keeps_its_last_checkpoint(mesh: TrainerMesh) -> None:
    name = mesh.submit(picture_spec(mesh.pictures, epochs=2000, checkpoint_interval_s=0.5, seed=8)).name
    try:
        step = wait_for_checkpoint(mesh, name)
    finally:
        mesh.runs.StopRun(pb.StopRunRequest(name=name))
    events = list(mesh.watch(name))
    states = [event.state.state for event in events if event.HasField("state")]
    run = mesh.run(name)
    assert states[-2:] == [job_pb2.JOB_STATE_CANCELLING, job_pb2.JOB_STATE_CANCELLED]
    assert run.job.state == job_pb2.JOB_STATE_CANCELLED
    last = [event.checkpoint for event in events if event.HasField("checkpoint")][-1]
    assert last.artifact == run.checkpoint
    assert last.step >= step
    assert mesh.runs.StopRun(pb.StopRunRequest(name=name)).run.job.state == job_pb2.JOB_STATE_CANCELLED
    wait_until(lambda: not workers(mesh.home), "the workers to end")
