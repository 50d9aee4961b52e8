"""Directives to runs, over the wire and through crashes."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from common.errors import (
    AlreadyExists,
    Cancelled,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    MeshError,
    NotFound,
    ResourceExhausted,
)
from deepseek.client.runs import Runs
from deepseek.client.steering import Steering
from protos.job.v1 import job_pb2
from protos.trainer.v1 import trainer_pb2 as pb
from services.trainer import directives
from tests.harness.processes import wait_until
from tests.services.trainer.conftest import TrainerMesh
from tests.services.trainer.tasks import picture_spec


def long_spec(mesh: TrainerMesh, **changes: Any) -> dict[str, Any]:
    """A run of 3000 steps."""
    changes = {
        "epochs": 1000,
        "num_workers": 1,
        "precision": "PRECISION_FP32",
        "schedule": {"name": "constant"},
    } | changes
    return picture_spec(mesh.pictures, **changes)


@contextmanager
def training(mesh: TrainerMesh, **changes: Any) -> Iterator[tuple[str, Steering]]:
    """A run that trains, and a stream to it."""
    name = mesh.submit(long_spec(mesh, **changes)).name
    try:
        next(event for event in mesh.watch(name) if event.HasField("step"))
        with Steering(mesh.runs, name) as steering:
            yield name, steering
    finally:
        mesh.runs.StopRun(pb.StopRunRequest(name=name))


def watched(mesh: TrainerMesh, name: str) -> list[pb.RunEvent]:
    return list(mesh.watch(name))


def ended(mesh: TrainerMesh, name: str) -> pb.Run:
    watched(mesh, name)
    return mesh.run(name)


def test_a_directive_is_answered_with_its_step_and_the_values(mesh: TrainerMesh) -> None:
    with training(mesh) as (name, steering):
        ack = steering.apply(set_learning_rate=0.005)
        assert ack.action == "set_learning_rate"
        assert ack.applied_step > 1
        assert (ack.old.learning_rate, ack.new.learning_rate) == (0.02, 0.005)
        assert (ack.old.momentum, ack.new.momentum) == (0.9, 0.9)
        assert ack.apply_time.seconds > 0
        assert steering.apply(set_momentum=0.8).new.momentum == 0.8
        assert steering.apply().action == "no_op"
        later = steering.apply(set_learning_rate=0.004, at_step=ack.applied_step + 500)
        assert later.applied_step == ack.applied_step + 500
        assert not later.late
        assert steering.apply(set_learning_rate=0.003, at_step=1).late
    events = watched(mesh, name)
    stored = [event.directive.action for event in events if event.HasField("directive")]
    assert stored == ["set_learning_rate", "set_momentum", "no_op", "set_learning_rate", "set_learning_rate"]
    rates = {event.step.learning_rate for event in events if event.HasField("step")}
    assert {0.02, 0.003} <= rates
    assert all(event.step.gradient_norm > 0 for event in events if event.HasField("step"))


def test_the_stream_has_the_events_of_the_run_too(mesh: TrainerMesh) -> None:
    name = mesh.submit(long_spec(mesh, epochs=20)).name
    with Steering(mesh.runs, name, after_sequence=0) as steering:
        first = steering.send(set_learning_rate=0.01, at_step=5)
        seen = list(steering.events())
        assert steering.wait(first).applied_step >= 5
    assert [event.sequence for event in seen] == list(range(1, len(seen) + 1))
    assert seen[-1].state.state == job_pb2.JOB_STATE_SUCCEEDED
    assert seen == watched(mesh, name)


def test_a_repeated_directive_is_answered_again_and_not_applied_again(mesh: TrainerMesh) -> None:
    with training(mesh) as (name, steering):
        first = steering.apply(set_learning_rate=0.005, directive_id="mine")
        steering.apply(set_learning_rate=0.004)
        with Steering(mesh.runs, name) as other:
            assert other.apply(set_learning_rate=0.005, directive_id="mine") == first
            with pytest.raises(AlreadyExists) as caught:
                other.apply(set_learning_rate=0.006, directive_id="mine")
            assert (caught.value.reason, caught.value.field) == ("DIRECTIVE_ID_REUSED", "directive.id")
        assert steering.apply().new.learning_rate == 0.004
    acks = [event for event in watched(mesh, name) if event.HasField("directive")]
    assert [event.directive.directive_id for event in acks].count("mine") == 1


BAD: list[tuple[dict[str, Any], type[MeshError], str, str]] = [
    ({"set_learning_rate": 0.0}, InvalidArgument, "BAD_VALUE", "directive.set_learning_rate"),
    ({"set_learning_rate": -1.0}, InvalidArgument, "BAD_VALUE", "directive.set_learning_rate"),
    ({"set_learning_rate": float("nan")}, InvalidArgument, "BAD_VALUE", "directive.set_learning_rate"),
    ({"set_learning_rate": float("inf")}, InvalidArgument, "BAD_VALUE", "directive.set_learning_rate"),
    ({"set_momentum": 1.0}, InvalidArgument, "BAD_VALUE", "directive.set_momentum"),
    ({"set_policy": "nowhere"}, InvalidArgument, "UNKNOWN_COMPONENT", "directive.set_policy.name"),
    (
        {"set_policy": "plateau", "params": {"patience": 0}},
        InvalidArgument,
        "BAD_VALUE",
        "directive.set_policy.params.patience",
    ),
    ({"restore": 10**6}, NotFound, "CHECKPOINT_NOT_FOUND", "directive.restore.step"),
    ({"at_step": -1}, InvalidArgument, "BAD_VALUE", "directive.apply_at_step"),
    ({"expire_after_s": float("nan")}, InvalidArgument, "BAD_VALUE", "directive.expire_after_s"),
    ({"directive_id": "x" * 101}, InvalidArgument, "BAD_VALUE", "directive.id"),
]
"""Directives that are refused: their fields, and the class, reason and field of the error."""


def test_a_bad_directive_is_refused_and_the_run_goes_on(mesh: TrainerMesh) -> None:
    with training(mesh) as (_, steering):
        for directive, kind, reason, field in BAD:
            with pytest.raises(kind) as caught:
                steering.apply(**directive)
            assert (caught.value.reason, caught.value.field) == (reason, field), directive
        assert steering.apply().new.learning_rate == 0.02


def test_a_directive_that_waits_too_long_expires(mesh: TrainerMesh) -> None:
    with training(mesh) as (_, steering):
        step = steering.apply().applied_step + 50
        with pytest.raises(DeadlineExceeded) as caught:
            steering.apply(set_learning_rate=0.5, at_step=step, expire_after_s=1e-6)
        assert caught.value.reason == "EXPIRED"
        assert steering.apply().new.learning_rate == 0.02


def test_a_run_that_has_ended_cannot_be_steered(mesh: TrainerMesh, trained: pb.Run) -> None:
    with Steering(mesh.runs, trained.name) as steering, pytest.raises(FailedPrecondition) as caught:
        steering.apply(set_learning_rate=0.5)
    assert caught.value.reason == "RUN_ENDED"


def test_directives_for_steps_after_the_end_are_answered_when_the_run_ends(mesh: TrainerMesh) -> None:
    name = mesh.submit(long_spec(mesh, epochs=20)).name
    with Steering(mesh.runs, name) as steering:
        late = steering.send(set_learning_rate=0.5, at_step=10**6)
        with pytest.raises(FailedPrecondition) as caught:
            steering.wait(late)
        assert caught.value.reason == "RUN_ENDED"
    run = ended(mesh, name)
    assert run.job.state == job_pb2.JOB_STATE_SUCCEEDED
    *_, ack, state = watched(mesh, name)
    assert ack.directive.error.reason == "RUN_ENDED"
    assert state.HasField("state")


def test_a_run_that_is_cancelled_before_it_starts_answers_its_directives(mesh: TrainerMesh) -> None:
    with training(mesh):
        name = mesh.submit(long_spec(mesh, seed=9)).name
        with Steering(mesh.runs, name) as steering:
            sent = steering.send(set_learning_rate=0.5)
            with pytest.raises(InvalidArgument):  # answered after the first one was stored
                steering.apply(set_learning_rate=-1.0)
            mesh.runs.StopRun(pb.StopRunRequest(name=name))
            with pytest.raises(FailedPrecondition, match="CANCELLED"):
                steering.wait(sent)


def test_an_unknown_run_and_an_external_one_are_refused(mesh: TrainerMesh) -> None:
    with Steering(mesh.runs, "runs/none") as steering, pytest.raises(NotFound) as caught:
        steering.apply()
    assert caught.value.reason == "RUN_NOT_FOUND"
    outside = mesh.runs.CreateExternalRun(pb.CreateExternalRunRequest(display_name="outside")).run.name
    with Steering(mesh.runs, outside) as steering, pytest.raises(FailedPrecondition) as refused:
        steering.apply()
    assert refused.value.reason == "EXTERNAL_RUN"


@pytest.mark.parametrize(
    ("requests", "reason"),
    [
        ([], "MISSING_FIELD"),
        ([pb.SteerRunRequest(directive=pb.Directive(id="d", no_op=pb.NoOperation()))], "MISSING_FIELD"),
        ([{}, pb.SteerRunRequest(name="runs/x")], "BAD_VALUE"),
        ([{}, pb.SteerRunRequest()], "MISSING_FIELD"),
        ([{"after_sequence": -1}], "BAD_VALUE"),
    ],
)
def test_a_stream_that_breaks_the_rules_fails(
    mesh: TrainerMesh, trained: pb.Run, requests: list[Any], reason: str
) -> None:
    messages = [
        one if isinstance(one, pb.SteerRunRequest) else pb.SteerRunRequest(name=trained.name, **one) for one in requests
    ]
    with pytest.raises(InvalidArgument) as caught:
        list(mesh.runs.SteerRun(iter(messages)))
    assert caught.value.reason == reason


def test_a_stream_ends_once_its_last_directive_is_answered(mesh: TrainerMesh) -> None:
    with training(mesh) as (name, _):
        messages = [
            pb.SteerRunRequest(name=name, answers_only=True, directive=pb.Directive(id="a", no_op=pb.NoOperation())),
            pb.SteerRunRequest(directive=pb.Directive(id="b", set_learning_rate=-1)),
            pb.SteerRunRequest(directive=pb.Directive(id="c")),
        ]
        answers = [
            one.event.directive if one.HasField("event") else one.ack for one in mesh.runs.SteerRun(iter(messages))
        ]
    found = {one.directive_id: one.error.reason for one in answers}
    assert found == {"a": "", "b": "BAD_VALUE", "c": "MISSING_FIELD"}


def test_a_stream_that_is_cut_changes_nothing(mesh: TrainerMesh) -> None:
    with training(mesh) as (name, steering):
        rate = steering.apply(set_learning_rate=0.005).new.learning_rate
        steering.close()
        call = mesh.runs.SteerRun(iter([pb.SteerRunRequest(name=name)]))
        next(call)
        call.cancel()
        before = mesh.run(name).job.progress
        wait_until(lambda: mesh.run(name).job.progress > before, "the run to go on")
        with Steering(mesh.runs, name) as again:
            assert again.apply().new.learning_rate == rate


def test_a_checkpoint_is_stored_when_it_is_acknowledged_and_can_be_restored(mesh: TrainerMesh) -> None:
    with training(mesh, checkpoint_interval_s=1e6) as (name, steering):
        saved = steering.apply(checkpoint=True).applied_step
        assert mesh.run(name).checkpoint.sha256
        ack = steering.apply(restore=saved)
        assert ack.applied_step > saved
        later = steering.apply(checkpoint=True).applied_step
        assert later > ack.applied_step
        with pytest.raises(NotFound, match=f"it keeps those of {saved} and {later}"):
            steering.apply(restore=saved - 1)
    steps = [event.checkpoint.step for event in watched(mesh, name) if event.HasField("checkpoint")]
    assert steps[:2] == [saved, later]


def test_a_checkpoint_of_another_run_of_the_same_kind_may_be_restored(mesh: TrainerMesh) -> None:
    donor = mesh.submit(long_spec(mesh, epochs=10, seed=5)).name
    saved = ended(mesh, donor)
    step = [event.checkpoint.step for event in watched(mesh, donor) if event.HasField("checkpoint")][-1]
    other = mesh.submit(long_spec(mesh, epochs=1, optimizer={"name": "sgd", "params": {"lr": 0.01}})).name
    ended(mesh, other)
    with training(mesh, seed=6, checkpoint_interval_s=1e6) as (name, steering):
        assert steering.apply(restore=step, restore_run=donor).applied_step > 1
        with pytest.raises(FailedPrecondition) as caught:
            steering.apply(restore=3, restore_run=other)
        assert caught.value.reason == "RUN_MISMATCH"
        with pytest.raises(NotFound) as missing:
            steering.apply(restore=3, restore_run="none")
        assert (missing.value.reason, missing.value.field) == ("RUN_NOT_FOUND", "directive.restore.run")
        with pytest.raises(NotFound, match=f"it keeps those of .*{step}"):
            steering.apply(restore=step + 1, restore_run=donor)
    assert saved.checkpoint.sha256
    assert ended(mesh, name).job.state == job_pb2.JOB_STATE_CANCELLED


def test_a_directive_stops_a_run_as_a_call_does(mesh: TrainerMesh) -> None:
    name = mesh.submit(long_spec(mesh)).name
    with Steering(mesh.runs, name) as steering:
        assert steering.apply(stop=True, at_step=7).applied_step == 7
    run = ended(mesh, name)
    assert run.job.state == job_pb2.JOB_STATE_CANCELLED
    events = watched(mesh, name)
    assert [event.checkpoint.step for event in events if event.HasField("checkpoint")][-1] == 7
    client = Runs(SimpleNamespace(channel=lambda service: mesh.trainer.channel()))  # type: ignore[arg-type]
    with pytest.raises(Cancelled, match=f"deepseek run steer NEW --restore 7 --restore-from {name[5:]}"):
        client.wait(name)


def test_a_run_that_was_steered_is_not_handed_out_as_equal(mesh: TrainerMesh) -> None:
    spec = long_spec(mesh, epochs=10, seed=77)
    plain = mesh.submit(spec, reuse=True).name
    ended(mesh, plain)
    steered = mesh.submit(spec).name
    with Steering(mesh.runs, steered) as steering:
        steering.apply(set_learning_rate=0.001, at_step=5)
    ended(mesh, steered)
    assert mesh.submit(spec, reuse=True).name == plain
    stopped = mesh.submit(long_spec(mesh, seed=78)).name
    with Steering(mesh.runs, stopped) as steering:
        steering.apply(stop=True, at_step=9)
    ended(mesh, stopped)
    again = mesh.submit(long_spec(mesh, seed=78), reuse=True)
    assert not again.HasField("checkpoint"), "its checkpoint is not adopted"
    mesh.runs.StopRun(pb.StopRunRequest(name=again.name))


def test_a_policy_in_the_spec_is_part_of_the_fingerprint_and_may_be_replaced(mesh: TrainerMesh) -> None:
    with training(mesh, policy={"name": "cosine"}) as (name, steering):
        run = mesh.run(name)
        assert run.spec.policy.name == "cosine"
        ack = steering.apply(set_policy="one-cycle", params={"pct_start": 0.5})
        assert ack.new.learning_rate < ack.old.learning_rate < 0.02
        assert steering.apply(set_policy="").applied_step > ack.applied_step, "plateau is the default"
    without = mesh.submit(long_spec(mesh))
    assert without.fingerprint != run.fingerprint
    mesh.runs.StopRun(pb.StopRunRequest(name=without.name))


def test_too_many_unanswered_directives_are_refused(mesh: TrainerMesh) -> None:
    with training(mesh, epochs=100_000) as (_, steering):
        ids = [steering.send(at_step=10**6) for _ in range(directives.MAX_UNANSWERED + 1)]
        with pytest.raises(ResourceExhausted) as caught:
            steering.wait(ids[-1])
        assert caught.value.reason == "TOO_MANY_DIRECTIVES"


def test_several_clients_may_steer_one_run(mesh: TrainerMesh) -> None:
    steps: list[int] = []

    def steer(name: str) -> None:
        with Steering(mesh.runs, name) as own:
            steps.extend(own.apply().applied_step for _ in range(5))

    with training(mesh) as (name, _):
        threads = [threading.Thread(target=steer, args=(name,)) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(steps) == 20
    assert all(steps)
