"""Runs that cannot be done end with a reason, and crashes are not repeated for ever."""

import re
import subprocess
from contextlib import ExitStack
from pathlib import Path

import pytest

from deepseek.processor import instruction_set
from deepseek.training import step_times
from deepseek.training.precision import SLOW
from protos.job.v1 import job_pb2
from protos.trainer.v1 import trainer_pb2 as pb
from tests.harness.mounts import fill, make_read_only, tmpfs
from tests.services.trainer.conftest import TrainerMesh, start_trainer
from tests.services.trainer.tasks import picture_spec


def test_parameters_that_the_model_does_not_take_fail_the_run_with_their_path(mesh: TrainerMesh) -> None:
    model = {"name": "image_question", "params": {"num_classes": 5, "depth": 3}}
    name = mesh.submit(picture_spec(mesh.pictures, model=model, num_workers=2)).name
    *_, last = mesh.watch(name)
    error = mesh.run(name).job.error
    assert last.state.state == job_pb2.JOB_STATE_FAILED
    assert last.state.error == error
    assert (error.code, error.reason, error.field) == ("INVALID_ARGUMENT", "UNKNOWN_FIELD", "spec.model.params.depth")
    assert "depth" in error.message


def test_a_slow_precision_is_warned_of_in_the_runs_events(mesh: TrainerMesh, tmp_path: Path) -> None:
    ratios = step_times.of_this_host(tmp_path).ratios
    slowest = max(ratios, key=lambda name: ratios[name])
    if ratios[slowest] < 2 * SLOW:
        pytest.skip("this processor computes all formats about as fast as the best")
    spec = picture_spec(mesh.pictures, precision=f"PRECISION_{slowest.upper()}", epochs=1, num_workers=1)
    events = list(mesh.watch(mesh.submit(spec).name))
    (warning,) = [event.warning for event in events if event.HasField("warning")]
    assert re.search(r"takes \d+\.\d times as long as in (fp32|bf16|fp16)", warning.message)
    assert "precision='auto' would use" in warning.message
    (precision,) = [event.precision for event in events if event.HasField("precision")]
    assert precision.precision == pb.Precision.Value(f"PRECISION_{slowest.upper()}")
    assert precision.reason == pb.PRECISION_REASON_REQUESTED


def test_auto_is_the_fastest_format_as_measured_and_an_event_of_the_run(mesh: TrainerMesh) -> None:
    spec = picture_spec(mesh.pictures, precision="PRECISION_AUTO", epochs=1, num_workers=2)
    events = list(mesh.watch(mesh.submit(spec).name))
    (found,) = [event.precision for event in events if event.HasField("precision")]
    ratios = {part.precision: part.ratio for part in found.ratios}
    assert found.reason == pb.PRECISION_REASON_FASTEST
    assert set(ratios) == {pb.PRECISION_FP32, pb.PRECISION_BF16, pb.PRECISION_FP16}
    assert min(ratios.values()) == 1.0
    assert ratios[found.precision] < 1.1
    assert found.instruction_set == instruction_set()
    assert not any(event.HasField("warning") for event in events)


@pytest.mark.slow
@pytest.mark.faults
def test_a_store_that_takes_no_checkpoint_fails_the_run_and_the_trainer_goes_on(tmp_path: Path) -> None:
    with ExitStack() as owned:
        disk = owned.enter_context(tmpfs(tmp_path / "disk"))
        mesh = start_trainer(tmp_path / "home", owned, store_url=f"file://{disk}")
        make_read_only(disk)
        name = mesh.submit(picture_spec(mesh.pictures, num_workers=1)).name
        events = list(mesh.watch(name))
        run = mesh.run(name)
        subprocess.run(["mount", "-o", "remount,rw", disk], check=True)
        after = mesh.submit(picture_spec(mesh.pictures, num_workers=1)).name
        *_, last = mesh.watch(after)
    assert last.state.state == job_pb2.JOB_STATE_SUCCEEDED
    assert (run.job.error.code, run.job.error.reason) == ("FAILED_PRECONDITION", "STORE_READ_ONLY")
    assert not run.HasField("checkpoint")
    assert not any(event.HasField("checkpoint") for event in events)


@pytest.mark.slow
@pytest.mark.faults
def test_a_store_that_is_full_fails_run_and_export_and_the_trainer_goes_on(tmp_path: Path) -> None:
    with ExitStack() as owned:
        disk = owned.enter_context(tmpfs(tmp_path / "disk"))
        mesh = start_trainer(tmp_path / "home", owned, store_url=f"file://{disk}")
        trained = mesh.submit(picture_spec(mesh.pictures, num_workers=1, epochs=2)).name
        *_, last = mesh.watch(trained)
        assert last.state.state == job_pb2.JOB_STATE_SUCCEEDED
        fill(disk)
        name = mesh.submit(picture_spec(mesh.pictures, num_workers=1, epochs=2, seed=1)).name
        events = list(mesh.watch(name))
        run = mesh.run(name)
        exported = mesh.runs.ExportModel(pb.ExportModelRequest(run=trained, model="models/m")).job.name
        *_, export = mesh.jobs.WatchJob(job_pb2.WatchJobRequest(name=exported), timeout=400)
        (disk / "filling").unlink()
        after = mesh.submit(picture_spec(mesh.pictures, num_workers=1, epochs=2, seed=1)).name
        *_, last = mesh.watch(after)
    assert last.state.state == job_pb2.JOB_STATE_SUCCEEDED
    assert (run.job.error.code, run.job.error.reason) == ("RESOURCE_EXHAUSTED", "STORE_FULL")
    assert not any(event.HasField("checkpoint") for event in events)
    assert (export.job.state, export.job.error.reason) == (job_pb2.JOB_STATE_FAILED, "STORE_FULL")


@pytest.mark.slow
@pytest.mark.faults
@pytest.mark.parametrize(("spoil", "reason"), [("fill", "DISK_FULL"), ("make_read_only", "DISK_READ_ONLY")])
def test_a_trainer_without_working_space_fails_run_and_export_and_says_why(
    tmp_path: Path, spoil: str, reason: str
) -> None:
    with ExitStack() as owned:
        mesh = start_trainer(tmp_path / "home", owned)
        disk = owned.enter_context(tmpfs(mesh.home / "trainer"))
        trained = mesh.submit(picture_spec(mesh.pictures, num_workers=1, epochs=1)).name
        *_, last = mesh.watch(trained)
        assert last.state.state == job_pb2.JOB_STATE_SUCCEEDED
        {"fill": fill, "make_read_only": make_read_only}[spoil](disk)
        name = mesh.submit(picture_spec(mesh.pictures, num_workers=1, epochs=1, seed=1)).name
        *_, run = mesh.watch(name)
        exported = mesh.runs.ExportModel(pb.ExportModelRequest(run=trained, model="models/m")).job.name
        *_, export = mesh.jobs.WatchJob(job_pb2.WatchJobRequest(name=exported), timeout=400)
    assert (run.state.state, run.state.error.reason) == (job_pb2.JOB_STATE_FAILED, reason)
    assert (export.job.state, export.job.error.reason) == (job_pb2.JOB_STATE_FAILED, reason)
    # What is written first depends on what the disk still takes: the job's own files, or a shard of the data set.
    kept = re.compile("files of the trainer|copies of artifacts")
    assert kept.search(run.state.error.message)
    assert kept.search(export.job.error.message)


CRASHING_MODEL = '''
"""A model of another package, which kills its process in the first training step."""
import os
import torch

class Crashing(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.zeros(5))

    def forward(self, image, question):
        if self.training:
            print("this model gives up", flush=True)
            os._exit(9)
        return self.scale.expand(*question.shape[:2], 5)
'''


def install(folder: Path) -> None:
    """Writes a package with an entry point, as pip would have installed it."""
    info = folder / "giving_up-1.2.dist-info"
    info.mkdir(parents=True)
    (folder / "giving_up.py").write_text(CRASHING_MODEL)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: giving-up\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text("[deepseek.models]\ncrashing = giving_up:Crashing\n")


@pytest.mark.slow
@pytest.mark.faults
def test_workers_that_crash_are_started_again_so_often_and_then_the_run_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path / "packages")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "packages"))
    with ExitStack() as owned:
        mesh = start_trainer(tmp_path / "home", owned, max_restarts="1")
        name = mesh.submit(picture_spec(mesh.pictures, model={"name": "crashing"}, num_workers=1)).name
        events = list(mesh.watch(name))
        job = mesh.run(name).job
    assert [event.attempt.attempt for event in events if event.HasField("attempt")] == [1, 1]
    assert (job.state, job.error.reason) == (job_pb2.JOB_STATE_FAILED, "WORKERS_CRASHED")
    assert "this model gives up" in job.error.message
