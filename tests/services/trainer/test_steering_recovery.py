"""A steered run that is killed ends with the weights that it would have had."""

import os
import signal
from collections.abc import Sequence
from typing import Any

import pytest

from deepseek.client.steering import Steering
from protos.job.v1 import job_pb2
from protos.trainer.v1 import trainer_pb2 as pb
from tests.harness.processes import wait_until, workers
from tests.services.trainer.conftest import TrainerMesh
from tests.services.trainer.tasks import picture_spec

pytestmark = [pytest.mark.faults, pytest.mark.slow]

DIRECTIVES: Sequence[dict[str, Any]] = (
    {"set_learning_rate": 0.01, "at_step": 20},
    {"set_momentum": 0.8, "at_step": 40},
    {"set_policy": "legacy-threshold", "at_step": 100},
    {"set_learning_rate": 0.004, "at_step": 220},
    {"set_policy": "cosine", "at_step": 400},
)


def spec(mesh: TrainerMesh, num_workers: int) -> dict[str, Any]:
    """A run of 600 steps."""
    changes = {"precision": "PRECISION_FP32", "schedule": {"name": "constant"}, "checkpoint_interval_s": 0.3}
    return picture_spec(mesh.pictures, epochs=200, num_workers=num_workers, policy={"name": "plateau"}, **changes)


def steer(mesh: TrainerMesh, name: str) -> None:
    """Sends all directives before the first of them is due."""
    with Steering(mesh.runs, name) as steering:
        for number, directive in enumerate(DIRECTIVES):
            steering.send(**directive, directive_id=f"d{number}")
        steering.apply(directive_id="first")


def kill(pids: Sequence[int]) -> None:
    assert pids
    for pid in pids:
        os.kill(pid, signal.SIGKILL)


def wait_for_step(mesh: TrainerMesh, name: str, step: int) -> None:
    """Waits for a checkpoint after a step, and for a further step after the checkpoint."""
    saved = 0
    for event in mesh.watch(name):
        if event.HasField("checkpoint") and event.checkpoint.step >= step:
            saved = event.checkpoint.step
        if saved and event.HasField("step") and event.step.step > saved:
            return
    raise AssertionError("the run ended before")


def finished(mesh: TrainerMesh, name: str) -> pb.Run:
    events = list(mesh.watch(name))
    run = mesh.run(name)
    assert run.job.state == job_pb2.JOB_STATE_SUCCEEDED, run.job
    acks = [event.directive for event in events if event.HasField("directive")]
    applied = {ack.directive_id: ack.applied_step for ack in acks if ack.directive_id != "first"}
    assert applied == {f"d{number}": one["at_step"] for number, one in enumerate(DIRECTIVES)}
    assert len(acks) == len(DIRECTIVES) + 1, "each is answered once"
    return run


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("num_workers", [1, 2])
def test_a_steered_run_that_was_killed_ends_with_the_same_weights(own_mesh: TrainerMesh, num_workers: int) -> None:
    mesh = own_mesh
    undisturbed = mesh.submit(spec(mesh, num_workers)).name
    steer(mesh, undisturbed)
    expected = finished(mesh, undisturbed)

    name = mesh.submit(spec(mesh, num_workers)).name
    steer(mesh, name)
    wait_for_step(mesh, name, 60)  # after the first two, before the third
    kill(workers(mesh.home)[:1])
    wait_for_step(mesh, name, 240)
    mesh.trainer.kill()
    wait_until(lambda: not workers(mesh.home), "the workers to follow their trainer", timeout_s=60)
    mesh.trainer.start()
    mesh.reconnect()
    run = finished(mesh, name)
    assert run.job.attempt == 2
    assert run.checkpoint.sha256 == expected.checkpoint.sha256
    assert {m.name: m.value for m in run.metrics} == {m.name: m.value for m in expected.metrics}


@pytest.mark.timeout(1200)
def test_a_directive_without_a_step_is_repeated_in_the_step_in_which_it_was_applied(own_mesh: TrainerMesh) -> None:
    mesh = own_mesh
    changes = {"precision": "PRECISION_FP32", "schedule": {"name": "constant"}, "checkpoint_interval_s": 1e6}
    spec = picture_spec(mesh.pictures, epochs=100, num_workers=1, **changes)
    name = mesh.submit(spec).name
    next(event for event in mesh.watch(name) if event.HasField("step"))
    with Steering(mesh.runs, name) as steering:
        applied = steering.apply(set_learning_rate=0.003).applied_step
    kill(workers(mesh.home))  # before any checkpoint, so the run begins again
    for _ in mesh.watch(name):
        pass
    again = mesh.submit(spec).name
    with Steering(mesh.runs, again) as steering:
        assert steering.apply(set_learning_rate=0.003, at_step=applied).applied_step == applied
    for _ in mesh.watch(again):
        pass
    assert mesh.run(name).checkpoint.sha256 == mesh.run(again).checkpoint.sha256


@pytest.mark.timeout(600)
def test_a_client_whose_trainer_restarts_gets_its_answer(own_mesh: TrainerMesh) -> None:
    mesh = own_mesh
    changes = {"precision": "PRECISION_FP32", "schedule": {"name": "constant"}}
    name = mesh.submit(picture_spec(mesh.pictures, epochs=2000, num_workers=1, **changes)).name
    next(event for event in mesh.watch(name) if event.HasField("step"))
    with Steering(mesh.runs, name, patience_s=120) as steering:
        before = steering.apply(set_learning_rate=0.003)
        mesh.trainer.kill()
        mesh.trainer.start()
        later = steering.apply(at_step=before.applied_step + 1)  # the run begins again, from its first step
        assert later.old.learning_rate == 0.003
