"""Exports over RPC: files, measurements, lineage, and the same export again."""

import contextlib
import json
import os
import signal
import sqlite3
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from common.artifacts import open_store
from common.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from deepseek.models.selection import MIN_SPEEDUP
from deepseek.processor import instruction_set
from protos.job.v1 import job_pb2
from protos.registry.v1 import registry_pb2
from protos.trainer.v1 import trainer_pb2 as pb
from tests.harness.processes import wait_until
from tests.services.trainer.conftest import TrainerMesh, start_trainer
from tests.services.trainer.exports import export, manifest_of
from tests.services.trainer.tasks import picture_spec


def request_for(run: str, model: str) -> pb.ExportModelRequest:
    # Measured on so little data, int8 may lose a few answers; what is tested is that it is measured and chosen by that.
    return pb.ExportModelRequest(run=run, model=f"models/{model}", int8=True, int8_max_loss=0.2)


@pytest.fixture(scope="session")
def exported(trained: pb.Run, mesh: TrainerMesh) -> registry_pb2.ModelVersion:
    """The model version that came of the pictures."""
    job = export(mesh, request_for(trained.name, "pictures"))
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED, job
    version: registry_pb2.ModelVersion = mesh.models.GetModelVersion(
        registry_pb2.GetModelVersionRequest(name=job.result)
    ).model_version
    return version


def test_a_version_has_its_lineage_and_metrics(
    exported: registry_pb2.ModelVersion, trained: pb.Run, mesh: TrainerMesh
) -> None:
    assert exported.name == "models/pictures/versions/1"
    assert list(exported.sources) == [mesh.pictures, trained.name]
    assert {metric.name for metric in exported.metrics} == {"test/loss", "test/accuracy"}
    graph = mesh.models.GetLineage(registry_pb2.GetLineageRequest(name=exported.name))
    assert (mesh.pictures, exported.name) in {(edge.source, edge.target) for edge in graph.edges}


def test_both_variants_are_kept_and_the_measured_best_is_preferred(
    exported: registry_pb2.ModelVersion, mesh: TrainerMesh
) -> None:
    manifest = manifest_of(mesh, exported)
    assert [file.name for file in manifest.files] == [
        "model.onnx",
        "model.int8.onnx",
        "probes.npz",
        "weights.safetensors",
    ]
    fp32, int8 = manifest.measurements
    assert (fp32.variant, int8.variant) == ("fp32", "int8")
    assert fp32.metric == int8.metric == "accuracy"
    preferred = fp32.latency_ms / int8.latency_ms >= MIN_SPEEDUP and fp32.value - int8.value <= 0.2
    assert manifest.served == ("model.int8.onnx" if preferred else "model.onnx")
    figures = {metric.name: metric.value for metric in exported.metrics}
    assert figures == {"test/loss": manifest.metrics["loss"], "test/accuracy": fp32.value}


def test_the_manifest_says_what_the_run_computed_in(exported: registry_pb2.ModelVersion, mesh: TrainerMesh) -> None:
    precision = manifest_of(mesh, exported).precision
    assert precision is not None
    assert (precision.reason, precision.instruction_set) == ("fastest", instruction_set())
    assert min(precision.ratios.values()) == 1.0
    assert precision.precision in precision.ratios


def test_the_files_run_from_the_manifest_alone(
    exported: registry_pb2.ModelVersion, mesh: TrainerMesh, tmp_path: Path
) -> None:
    manifest = manifest_of(mesh, exported)
    store = open_store(f"file://{mesh.home / 'store'}")
    image, question = manifest.inputs
    assert (image.name, image.datatype, image.shape) == ("image", "UINT8", (-1, 16, 16, 3))
    assert (question.name, question.datatype, question.shape) == ("question", "INT64", (-1, -1, 6))
    assert question.encoder is not None
    assert "colour" in question.encoder.state["tokens"]
    assert manifest.outputs[0].labels == ("blue", "green", "no", "red", "yes")
    for file in manifest.candidates:
        session = ort.InferenceSession(store.fetch("default", file.sha256, tmp_path / file.name))
        for num_images, num_questions in ((1, 1), (5, 3)):
            pixels = np.zeros((num_images, 16, 16, 3), np.uint8)
            tokens = np.ones((num_images, num_questions, 6), np.int64)
            (scores,) = session.run(None, {"image": pixels, "question": tokens})
            assert scores.shape == (num_images, num_questions, 5)


def test_the_same_export_again_adds_nothing(
    exported: registry_pb2.ModelVersion, trained: pb.Run, mesh: TrainerMesh
) -> None:
    before = mesh.blobs()
    assert export(mesh, request_for(trained.name, "pictures")).result == exported.name
    other = export(mesh, request_for(trained.name, "also"))
    assert other.result == "models/also/versions/1"
    assert mesh.blobs() == before


def test_an_export_whose_files_were_collected_starts_again(trained: pb.Run, mesh: TrainerMesh) -> None:
    request = pb.ExportModelRequest(run=trained.name, model="models/collected", int8_max_loss=0.3)
    first = mesh.models.GetModelVersion(registry_pb2.GetModelVersionRequest(name=export(mesh, request).result))
    mesh.models.DeleteModelVersion(registry_pb2.DeleteModelVersionRequest(name=first.model_version.name))
    store = open_store(f"file://{mesh.home / 'store'}")
    store.delete("default", manifest_of(mesh, first.model_version).file().sha256)

    name = export(mesh, request).result

    assert name == "models/collected/versions/2"
    version = mesh.models.GetModelVersion(registry_pb2.GetModelVersionRequest(name=name)).model_version
    assert all(store.exists("default", file.sha256) for file in manifest_of(mesh, version).files)


def test_equal_exports_at_the_same_time_make_one_version(trained: pb.Run, mesh: TrainerMesh) -> None:
    request = pb.ExportModelRequest(run=trained.name, model="models/together")
    names = [mesh.runs.ExportModel(request).job.name for _ in range(2)]
    results = []
    for name in names:
        *_, last = mesh.jobs.WatchJob(job_pb2.WatchJobRequest(name=name), timeout=400)
        results.append(last.job.result)
    assert results == ["models/together/versions/1"] * 2


def test_a_repeated_request_makes_one_export(
    exported: registry_pb2.ModelVersion, trained: pb.Run, mesh: TrainerMesh
) -> None:
    request = pb.ExportModelRequest(run=trained.name, model="models/pictures", int8=True, int8_max_loss=0.2)
    request.request_id = "once"
    name = mesh.runs.ExportModel(request).job.name
    assert mesh.runs.ExportModel(request).job.name == name
    request.model = "models/another"
    with pytest.raises(AlreadyExists) as caught:
        mesh.runs.ExportModel(request)
    assert (caught.value.reason, caught.value.field) == ("REQUEST_ID_REUSED", "request_id")


def children(home: Path) -> list[int]:
    """Export processes of this mesh, past the launcher that started them."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0") if entry.name.isdigit() else []
        except OSError:
            continue
        if command[1:4] == [b"-P", b"-m", b"deepseek.trainjob.export_main"] and str(home).encode() in command[4]:
            found.append(int(entry.name))
    return found


@pytest.mark.slow
@pytest.mark.faults
def test_an_export_that_was_killed_is_started_again_and_not_for_ever(tmp_path: Path) -> None:
    with ExitStack() as owned:
        mesh = start_trainer(tmp_path / "home", owned, max_restarts="1")
        run = mesh.submit(picture_spec(mesh.pictures, epochs=1)).name
        for _ in mesh.watch(run):
            pass

        def kill_children_of_an_export(model: str, times: int) -> job_pb2.Job:
            request = pb.ExportModelRequest(run=run, model=f"models/{model}")
            name = mesh.runs.ExportModel(request).job.name
            killed: set[int] = set()
            for _ in range(times):
                wait_until(lambda: bool(set(children(mesh.home)) - killed), "an export")
                (pid,) = set(children(mesh.home)) - killed
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
            *_, last = mesh.jobs.WatchJob(job_pb2.WatchJobRequest(name=name), timeout=400)
            job: job_pb2.Job = last.job
            return job

        failed = kill_children_of_an_export("doomed", 2)
        succeeded = kill_children_of_an_export("lucky", 1)
        left = list((mesh.home / "trainer" / "exports").iterdir())
    assert (failed.state, failed.error.reason) == (job_pb2.JOB_STATE_FAILED, "EXPORT_CRASHED")
    assert "crashed 2 times" in failed.error.message
    assert (succeeded.state, succeeded.result) == (job_pb2.JOB_STATE_SUCCEEDED, "models/lucky/versions/1")
    assert left == []


@pytest.mark.slow
@pytest.mark.faults
def test_a_registry_that_is_away_at_the_end_is_waited_for(own_mesh: TrainerMesh) -> None:
    mesh = own_mesh
    run = mesh.submit().name
    for _ in mesh.watch(run):
        pass
    name = mesh.runs.ExportModel(pb.ExportModelRequest(run=run, model="models/late")).job.name

    def job() -> job_pb2.Job:
        found: job_pb2.Job = mesh.jobs.GetJob(job_pb2.GetJobRequest(name=name)).job
        return found

    wait_until(lambda: job().state == job_pb2.JOB_STATE_RUNNING, "the export to begin")
    mesh.registry.kill()
    wait_until(lambda: job().message.startswith("waiting for the registry"), "the files to be made", timeout_s=120)
    mesh.registry.start()
    wait_until(lambda: job().state not in (job_pb2.JOB_STATE_RUNNING,), "the registry to be asked again")
    assert job().state == job_pb2.JOB_STATE_SUCCEEDED, job()
    assert job().result == "models/late/versions/1"
    versions = mesh.models.ListModelVersions(registry_pb2.ListModelVersionsRequest(parent="models/late"))
    assert [version.name for version in versions.model_versions] == [job().result]


@pytest.mark.parametrize(("given", "meant"), [({}, 0.005), ({"int8_max_loss": 0.0}, 0.0)])
def test_no_loss_at_all_can_be_asked_for(
    trained: pb.Run, mesh: TrainerMesh, given: dict[str, float], meant: float
) -> None:
    job = mesh.runs.ExportModel(pb.ExportModelRequest(run=trained.name, model="models/exact", **given)).job
    mesh.jobs.CancelJob(job_pb2.CancelJobRequest(name=job.name))
    with contextlib.closing(sqlite3.connect(mesh.home / "state" / "trainer.db")) as state:
        (spec,) = state.execute("SELECT spec FROM jobs WHERE job_id = ?", [job.name.removeprefix("jobs/")]).fetchone()
    assert json.loads(spec)["int8_max_loss"] == meant


def test_a_run_that_has_not_succeeded_is_not_exported(mesh: TrainerMesh) -> None:
    name = mesh.submit(picture_spec(mesh.pictures, seed=77)).name
    mesh.runs.StopRun(pb.StopRunRequest(name=name))
    with pytest.raises(FailedPrecondition) as caught:
        mesh.runs.ExportModel(pb.ExportModelRequest(run=name, model="models/m"))
    assert (caught.value.reason, caught.value.field) == ("RUN_NOT_SUCCEEDED", "run")


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"model": "pictures"}, "BAD_NAME", "model"),
        ({"model": "models/A B"}, "BAD_NAME", "model"),
        ({"model": "models/m", "int8_max_loss": 1.5}, "BAD_VALUE", "int8_max_loss"),
        ({"model": "models/m", "int8_max_loss": float("nan")}, "BAD_VALUE", "int8_max_loss"),
    ],
)
def test_a_wrong_request_is_refused(
    trained: pb.Run, mesh: TrainerMesh, changes: dict[str, object], reason: str, field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        mesh.runs.ExportModel(pb.ExportModelRequest(run=trained.name, **changes))  # type: ignore[arg-type]
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_an_unknown_run_is_not_found(mesh: TrainerMesh) -> None:
    with pytest.raises(NotFound) as caught:
        mesh.runs.ExportModel(pb.ExportModelRequest(run="runs/none", model="models/m"))
    assert (caught.value.reason, caught.value.field) == ("RUN_NOT_FOUND", "run")
