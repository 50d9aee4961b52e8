"""`deepseek demo`: the main job on real data, from an empty folder to a served model and a report."""

import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from common.config import home
from deepseek import embedded
from deepseek.cli.interrupts import check_interrupted, when_interrupted
from deepseek.cli.mesh import FreePorts
from deepseek.cli.output import (
    AsJson,
    console,
    error_console,
    make_folder,
    print_json,
    print_table,
    progress_bar,
    writing,
)
from deepseek.cli.precision import event_ratios, precision_name, ratios_text
from deepseek.cli.train import show_run, waiting
from deepseek.client import Mesh
from deepseek.models.manifest import Measurement, ModelManifest
from deepseek.processor import instruction_set
from protos.job.v1 import job_pb2
from protos.trainer.v1 import trainer_pb2

# About 500 of the test questions: an emulated processor is slow.
_AVX2_EVERY = 19
_AGAIN = (
    "stopped; `deepseek demo` resumes the run from its last checkpoint (a mesh that was running before still trains it)"
)


def demo(
    fresh: Annotated[bool, typer.Option("--fresh", help="Train anew even if an equal run exists.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the mesh running.")] = False,
    free_ports: FreePorts = False,
    report: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("demo-report"),
    as_json: AsJson = False,
) -> None:
    """Run the main job: upload 5,000 images with 48,248 questions, train, export, serve, and ask every test question.

    It starts a mesh, and stops it at the end unless --keep. A second run finds the data and the trained model again.
    Stopped or killed half-way, it goes on from the last checkpoint when run again.
    """
    start = time.perf_counter()
    make_folder(report, "--report")
    with running_mesh(keep=keep, free_ports=free_ports) as mesh:
        figures = run(mesh, report, fresh=fresh)
    figures["total_s"] = time.perf_counter() - start
    from deepseek.demo.report import write_json

    with writing(report, "--report"):
        write_json(report / "report.json", figures)
    print_report(figures, report, keep=keep)
    if as_json:
        print_json(figures)


@contextmanager
def running_mesh(*, keep: bool, free_ports: bool) -> Iterator[Mesh]:
    """A mesh that already runs here, or one that is started now and stopped afterwards unless it shall be kept.

    Services that were started here are kept up.

    Raises:
        FailedPrecondition: SERVICE_ENDED or the service's own reason: one of its services does not stay up.
    """
    _begin("mesh")
    mesh = embedded.start_mesh(
        home(),
        stay=keep,
        free_ports=free_ports,
        on_ready=_show_ready,
    )
    try:
        with mesh.kept_up(lambda text: error_console.print(text, style="bold yellow", markup=False)) as client:
            yield client
    except BaseException:
        mesh.stop()
        raise
    if not keep:
        mesh.stop()


def run(mesh: Mesh, folder: Path, *, fresh: bool) -> dict[str, Any]:
    """The steps of the main job on a running mesh.

    Args:
        mesh: The mesh.
        folder: Where the pictures go.
        fresh: Train anew even if an equal run exists; one that an interrupted demo left under way is stopped.

    Returns:
        The report's figures, without `total_s`.
    """
    from deepseek.demo import avx2, easy_vqa, report, serving

    name = easy_vqa.DATASET
    blobs_before = _num_blobs(mesh)

    _begin("ingest")
    samples = list(easy_vqa.samples())
    with progress_bar() as bar:
        task = bar.add_task("uploading", total=len(samples), note="")
        version = mesh.datasets.upload(
            name,
            easy_vqa.fields(),
            samples,
            on_sample=lambda number: bar.update(task, completed=number),
            on_change=lambda job: bar.update(task, note=job.message),
        )
    console.print(f"{version.name}: {version.num_samples} samples, manifest {version.manifest.sha256[:12]}")

    _begin("train")
    spec = json.loads(resources.files("deepseek.demo").joinpath("spec.json").read_text(encoding="utf-8"))
    submitted, reused = mesh.runs.submit({**spec, "dataset_version": version.name}, reuse=not fresh)
    if fresh:
        _stop_older(mesh, submitted)
    with when_interrupted(_AGAIN), progress_bar() as bar:
        events = show_run(bar, mesh.runs.watch(submitted.name), waits_for=waiting(submitted))
    trained = mesh.runs.wait(submitted.name)
    origin = "found again" if reused else f"trained in {trained.train_s:.1f} s"
    console.print(f"{trained.name}: {origin}, {', '.join(f'{m.name} {m.value:.4f}' for m in trained.metrics)}")

    _begin("export")
    with progress_bar() as bar:
        task = bar.add_task("exporting", total=1, note="")
        model_version = mesh.runs.export(
            trained.name,
            name,
            int8=True,
            on_change=lambda job: bar.update(task, completed=job.progress, note=job.message),
        )
    manifest = mesh.models.manifest(model_version)
    console.print(f"{model_version.name}: {', '.join(f.name for f in manifest.files)}; serves {manifest.served}")

    _begin("serve")
    mesh.inference.load(name, model_version.name.rpartition("/")[2])
    answering = mesh.inference.metadata(name).parameters["file"].string_param
    test = [sample for sample in samples if sample.split == "test"]
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
            bar.update(task, note="answering without a server, and as with AVX2 only")
            served = serving.accuracy(asked)
            offline = serving.offline_accuracy(Path(files, answering), manifest, test)
            int8_loss_points_avx2 = loss_points_avx2()
    console.print(
        f"{num_questions} test questions: accuracy {served:.4%}; the same file without a server {offline:.4%}"
    )

    with writing(folder, "--report"):
        (folder / "example.png").write_bytes(test[0].values["image"])
        report.write_learning_curve(folder / "learning-curve.png", events)
        report.write_contact_sheet(folder / "contact-sheet.png", asked)
    p50_ms, p99_ms = (float(value) for value in np.percentile([one.latency_s * 1000 for one in asked], [50, 99]))
    return {
        "test_accuracy": served,
        "served_equals_offline": served == offline,
        "train_s": trained.train_s,
        "total_s": None,
        "p50_ms": p50_ms,
        "p99_ms": p99_ms,
        **_int8_figures(manifest),
        "int8_loss_points_avx2": int8_loss_points_avx2,
        **_precision_figures(events),
        "instruction_set": instruction_set(),
        "blobs_added": _num_blobs(mesh) - blobs_before,
        "offline_accuracy": offline,
        "num_questions": num_questions,
        "reused_run": reused,
        "dataset_version": version.name,
        "run": trained.name,
        "model_version": model_version.name,
        "served_file": answering,
    }


def print_report(figures: dict[str, Any], folder: Path, *, keep: bool) -> None:
    """Prints the figures and the next commands."""
    _begin("report")
    yes_no = {True: "yes", False: "NO"}
    rows = [
        ("test accuracy", f"{figures['test_accuracy']:.4%} of {figures['num_questions']} questions"),
        ("served equals offline", yes_no[figures["served_equals_offline"]]),
        ("precision", f"{figures['precision']}{ratios_text(figures['precision_ratios'])}"),
        ("training", f"{figures['train_s']:.1f} s" + (" (an earlier run)" if figures["reused_run"] else "")),
        ("latency p50, p99", f"{figures['p50_ms']:.2f} ms, {figures['p99_ms']:.2f} ms"),
        ("int8 speed-up, loss", _int8_text(figures)),
        ("blobs added", figures["blobs_added"]),
        ("whole demo", f"{figures['total_s']:.1f} s"),
    ]
    print_table(["figure", "value"], rows)
    console.print(f"\nreport.json, learning-curve.png and contact-sheet.png lie in {folder}/\n", highlight=False)
    image = folder / "example.png"
    program = "deepseek" if shutil.which("deepseek") else os.path.relpath(sys.argv[0])
    ask = f'{program} ask {image} "what shape is it?"'
    commands = [ask, f"{program} down"] if keep else [f"{program} up", ask]
    console.print("next:", *commands, sep="\n  ", markup=False, highlight=False)


def _stop_older(mesh: Mesh, submitted: trainer_pb2.Run) -> None:
    """Stops other runs like this one: what an interrupted demo left goes on by itself and takes half the machine."""
    under_way = (job_pb2.JOB_STATE_PENDING, job_pb2.JOB_STATE_RUNNING)
    for run in mesh.runs.list():
        if run.fingerprint == submitted.fingerprint and run.name != submitted.name and run.job.state in under_way:
            mesh.runs.stop(run.name)
            console.print(f"{run.name}: stopped, for {submitted.name} is trained afresh", highlight=False)


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
    """Format of the last attempt, and the measured time of a step in each format relative to the fastest."""
    *_, last = (event.precision for event in events if event.HasField("precision"))
    return {"precision": precision_name(last.precision), "precision_ratios": event_ratios(last)}


def _int8_text(figures: dict[str, Any]) -> str:
    if figures["int8_speedup"] is None:
        return "not measured"
    verdict = "served" if "int8" in figures["served_file"] else "not served"
    avx2 = figures["int8_loss_points_avx2"]
    elsewhere = "" if avx2 is None else f" ({avx2:.2f} on a processor with AVX2 only)"
    return f"{figures['int8_speedup']:.2f}x, {figures['int8_loss_points']:.2f} points{elsewhere}: {verdict}"


def _begin(step: str) -> None:
    check_interrupted()
    console.rule(step, align="left")


def _show_ready(service: embedded.ServiceStatus) -> None:
    check_interrupted()
    console.print(f"{service.name:<10} {service.address}  (process {service.pid})", highlight=False)


def _num_blobs(mesh: Mesh) -> int:
    return sum(1 for _ in mesh.store.list(mesh.tenant))
