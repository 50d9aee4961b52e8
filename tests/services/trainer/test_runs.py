"""A run from start to end, and what its history tells."""

from pathlib import Path

from common.artifacts import open_store
from protos.job.v1 import job_pb2
from protos.trainer.v1 import trainer_pb2 as pb
from tests.services.trainer.conftest import TrainerMesh


def test_a_run_learns_and_reports_its_figures(trained: pb.Run) -> None:
    metrics = {metric.name: metric.value for metric in trained.metrics}
    assert trained.job.state == job_pb2.JOB_STATE_SUCCEEDED
    assert trained.job.result == trained.name
    assert metrics["accuracy"] > 0.9
    assert 0 < metrics["loss"] < 1
    assert trained.train_s > 0


def test_the_history_is_whole_and_can_be_read_from_any_point(trained: pb.Run, mesh: TrainerMesh) -> None:
    events = list(mesh.watch(trained.name))
    assert [event.sequence for event in events] == list(range(1, len(events) + 1))
    assert list(mesh.watch(trained.name, after=5)) == events[5:]
    assert list(mesh.watch(trained.name, after=len(events))) == []
    kinds = [event.WhichOneof("kind") for event in events]
    assert {"precision", "attempt", "step", "evaluation", "checkpoint", "state"} == set(kinds)
    states = [event.state.state for event in events if event.HasField("state")]
    assert states == [job_pb2.JOB_STATE_PENDING, job_pb2.JOB_STATE_RUNNING, job_pb2.JOB_STATE_SUCCEEDED]
    assert kinds[0] == kinds[-1] == "state"


def test_progress_tells_loss_accuracy_speed_and_what_is_left(trained: pb.Run, mesh: TrainerMesh) -> None:
    steps = [event.step for event in mesh.watch(trained.name) if event.HasField("step")]
    assert [step.step for step in steps] == sorted(step.step for step in steps)
    last = steps[-1]
    assert last.step == last.num_steps
    assert last.epoch == trained.spec.epochs
    assert {"loss", "accuracy"} <= {metric.name for metric in last.metrics}
    assert last.samples_per_second > 0
    assert last.eta_s == 0
    assert steps[0].eta_s > 0


def test_the_last_checkpoints_are_in_the_store_and_the_last_one_is_the_runs(trained: pb.Run, mesh: TrainerMesh) -> None:
    checkpoints = [event.checkpoint for event in mesh.watch(trained.name) if event.HasField("checkpoint")]
    store = open_store(f"file://{mesh.home / 'store'}")
    assert all(store.exists("default", checkpoint.artifact.sha256) for checkpoint in checkpoints[-2:])
    assert checkpoints[-1].artifact == trained.checkpoint


def test_a_finished_run_leaves_no_working_files(trained: pb.Run, mesh: TrainerMesh) -> None:
    assert not (mesh.home / "trainer" / "runs" / trained.name.removeprefix("runs/")).exists()


def test_the_server_never_loads_torch(trained: pb.Run, mesh: TrainerMesh) -> None:
    maps = Path(f"/proc/{mesh.trainer.pid}/maps").read_text()
    assert "grpc" in maps
    assert "libtorch" not in maps


def test_an_evaluation_comes_after_every_epoch(trained: pb.Run, mesh: TrainerMesh) -> None:
    epochs = [event.evaluation.epoch for event in mesh.watch(trained.name) if event.HasField("evaluation")]
    assert epochs == list(range(1, trained.spec.epochs + 1))


def test_the_figures_are_those_of_the_best_epoch_which_is_named(trained: pb.Run, mesh: TrainerMesh) -> None:
    evaluations = [event.evaluation for event in mesh.watch(trained.name) if event.HasField("evaluation")]
    losses = [{metric.name: metric.value for metric in one.metrics}["loss"] for one in evaluations]
    best = evaluations[losses.index(min(losses))]
    assert (trained.best_epoch, trained.best_step) == (best.epoch, best.step)
    assert list(trained.metrics) == list(best.metrics)
    assert [one.epoch for one in evaluations if one.is_best][-1] == best.epoch
