"""The steps of `deepseek demo` on a running mesh: upload, train, export, serve, and draw the pictures of the report."""

import json
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np

from deepseek.cli.interrupts import when_interrupted
from deepseek.cli.output import begin_step, console, progress_bar, writing
from deepseek.cli.precision import event_ratios, precision_name
from deepseek.cli.train import show_run, waiting
from deepseek.client import Mesh
from deepseek.data.sample import Sample
from deepseek.demo import avx2, easy_vqa, report, serving
from deepseek.demo.serving import AnsweredQuestion
from deepseek.models.manifest import Measurement, ModelManifest
from deepseek.processor import instruction_set
from protos.job.v1 import job_pb2
from protos.registry.v1 import registry_pb2
from protos.trainer.v1 import trainer_pb2

# The emulated processor is slow, so only every 19th test question, about 500 in total, is answered on it.
_AVX2_EVERY = 19
_AGAIN = (
    "stopped; `deepseek demo` resumes the run from its last checkpoint (if the mesh was already running before the "
    "demo, the run continues in the mesh)"
)


def run(mesh: Mesh, folder: Path, *, fresh: bool) -> dict[str, Any]:
    """Runs the steps of the demo on a running mesh.

    Args:
        mesh: Client of the mesh.
        folder: Folder for the pictures.
        fresh: If True, starts a new run even if an equal run exists, and stops equal runs that are still active.

    Returns:
        The results for the report. `total_s` is None; the caller must set it.
    """
    blobs_before = _num_blobs(mesh)
    samples = list(easy_vqa.samples())
    test = [sample for sample in samples if sample.split == "test"]
    version = _upload(mesh, samples)
    trained, events, reused = _train(mesh, version, fresh=fresh)
    model_version = _export(mesh, trained)
    served = _serve(mesh, model_version, test)
    _draw(folder, test, events, served.asked)
    manifest = mesh.models.manifest(model_version)
    return {
        "test_accuracy": served.accuracy,
        "served_equals_offline": served.accuracy == served.offline_accuracy,
        "train_s": trained.train_s,
        "total_s": None,
        **_latencies_ms(served.asked),
        **_int8_figures(manifest),
        "int8_loss_points_avx2": served.int8_loss_points_avx2,
        **_precision_figures(events),
        "instruction_set": instruction_set(),
        "blobs_added": _num_blobs(mesh) - blobs_before,
        "offline_accuracy": served.offline_accuracy,
        "num_questions": len(served.asked),
        "reused_run": reused,
        "dataset_version": version.name,
        "run": trained.name,
        "model_version": model_version.name,
        "served_file": served.file,
    }


def _upload(mesh: Mesh, samples: Sequence[Sample]) -> registry_pb2.DatasetVersion:
    begin_step("ingest")
    with progress_bar() as bar:
        task = bar.add_task("uploading", total=len(samples), note="")
        version = mesh.datasets.upload(
            easy_vqa.DATASET,
            easy_vqa.fields(),
            samples,
            on_sample=lambda number: bar.update(task, completed=number),
            on_change=lambda job: bar.update(task, note=job.message),
        )
    console.print(f"{version.name}: {version.num_samples} samples, manifest {version.manifest.sha256[:12]}")
    return version


def _train(
    mesh: Mesh, version: registry_pb2.DatasetVersion, *, fresh: bool
) -> tuple[trainer_pb2.Run, list[trainer_pb2.RunEvent], bool]:
    """Trains the model, and returns the run, its events, and whether the run already existed."""
    begin_step("train")
    spec = json.loads(resources.files("deepseek.demo").joinpath("spec.json").read_text(encoding="utf-8"))
    submitted, reused = mesh.runs.submit({**spec, "dataset_version": version.name}, reuse=not fresh)
    if fresh:
        _stop_older(mesh, submitted)
    with when_interrupted(_AGAIN), progress_bar() as bar:
        events = show_run(bar, mesh.runs.watch(submitted.name), waits_for=waiting(submitted))
    trained = mesh.runs.wait(submitted.name)
    origin = "an earlier run" if reused else f"trained in {trained.train_s:.1f} s"
    console.print(f"{trained.name}: {origin}, {', '.join(f'{m.name} {m.value:.4f}' for m in trained.metrics)}")
    return trained, events, reused


def _export(mesh: Mesh, trained: trainer_pb2.Run) -> registry_pb2.ModelVersion:
    begin_step("export")
    with progress_bar() as bar:
        task = bar.add_task("exporting", total=1, note="")
        version = mesh.runs.export(
            trained.name,
            easy_vqa.DATASET,
            int8=True,
            on_change=lambda job: bar.update(task, completed=job.progress, note=job.message),
        )
    manifest = mesh.models.manifest(version)
    console.print(f"{version.name}: {', '.join(f.name for f in manifest.files)}; serves {manifest.served}")
    return version


@dataclass(frozen=True)
class _Served:
    """The served model's answers to the test questions.

    Attributes:
        file: Name of the served file.
        asked: Every test question with the model's answer.
        accuracy: Fraction of correct answers, from 0 to 1.
        offline_accuracy: Fraction of correct answers when the same file runs without a server, from 0 to 1.
        int8_loss_points_avx2: See `deepseek.demo.avx2.measuring`.
    """

    file: str
    asked: list[AnsweredQuestion]
    accuracy: float
    offline_accuracy: float
    int8_loss_points_avx2: float | None


def _serve(mesh: Mesh, version: registry_pb2.ModelVersion, test: Sequence[Sample]) -> _Served:
    """Loads the version, sends it every test question, and runs its files without a server for comparison."""
    begin_step("serve")
    name, manifest = easy_vqa.DATASET, mesh.models.manifest(version)
    mesh.inference.load(name, version.name.rpartition("/")[2])
    answering = mesh.inference.metadata(name).parameters["file"].string_param
    num_questions = sum(len(sample.values["question"]) for sample in test)
    with tempfile.TemporaryDirectory() as files, progress_bar() as bar:
        task = bar.add_task("asking", total=num_questions, note="")
        paths = {
            file.variant: mesh.store.fetch(mesh.tenant, file.sha256, Path(files, file.name))
            for file in manifest.candidates
        }
        questions = serving.some_questions(manifest, test, _AVX2_EVERY)
        with avx2.measuring(paths["fp32"], paths.get("int8"), questions, Path(files)) as loss_points_avx2:
            asked = serving.ask_served(mesh, name, manifest, test, lambda number: bar.update(task, completed=number))
            bar.update(task, note="answering without a server, and on an emulated processor with AVX2 only")
            accuracy = serving.accuracy(asked)
            offline = serving.offline_accuracy(Path(files, answering), manifest, test)
            served = _Served(answering, asked, accuracy, offline, loss_points_avx2())
    console.print(
        f"{num_questions} test questions: accuracy {accuracy:.4%}; the same file without a server {offline:.4%}"
    )
    return served


def _draw(
    folder: Path, test: Sequence[Sample], events: Sequence[trainer_pb2.RunEvent], asked: Sequence[AnsweredQuestion]
) -> None:
    """Writes an example image, the learning curve and the contact sheet."""
    with writing(folder, "--report"):
        (folder / "example.png").write_bytes(test[0].values["image"])
        report.write_learning_curve(folder / "learning-curve.png", events)
        report.write_contact_sheet(folder / "contact-sheet.png", asked)


def _latencies_ms(asked: Sequence[AnsweredQuestion]) -> dict[str, float]:
    p50, p99 = np.percentile([one.latency_s * 1000 for one in asked], [50, 99])
    return {"p50_ms": float(p50), "p99_ms": float(p99)}


def _stop_older(mesh: Mesh, submitted: trainer_pb2.Run) -> None:
    """Stops other active runs that have the same fingerprint as the submitted run.

    An interrupted demo may have left such a run behind. It would take half of the cores from the new run.
    """
    under_way = (job_pb2.JOB_STATE_PENDING, job_pb2.JOB_STATE_RUNNING)
    for run in mesh.runs.list():
        if run.fingerprint == submitted.fingerprint and run.name != submitted.name and run.job.state in under_way:
            mesh.runs.stop(run.name)
            console.print(f"{run.name}: stopped, because {submitted.name} trains again", highlight=False)


def _int8_figures(manifest: ModelManifest) -> dict[str, float | None]:
    by_variant: dict[str, Measurement] = {measurement.variant: measurement for measurement in manifest.measurements}
    if "fp32" not in by_variant or "int8" not in by_variant:
        return {"int8_speedup": None, "int8_loss_points": None}
    fp32, int8 = by_variant["fp32"], by_variant["int8"]
    return {
        "int8_speedup": fp32.latency_ms / int8.latency_ms,
        "int8_loss_points": (fp32.value - int8.value) * 100,
    }


def _precision_figures(events: Iterable[trainer_pb2.RunEvent]) -> dict[str, Any]:
    """Returns the numeric format of the run's last attempt, and the measured relative step time of each format."""
    *_, last = (event.precision for event in events if event.HasField("precision"))
    return {"precision": precision_name(last.precision), "precision_ratios": event_ratios(last)}


def _num_blobs(mesh: Mesh) -> int:
    return sum(1 for _ in mesh.store.list(mesh.tenant))
