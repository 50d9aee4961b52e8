"""`deepseek train`: submit a run and watch it learn."""

import json
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from common.errors import InvalidArgument
from common.text_files import NotUtf8, read_text
from deepseek.cli.interrupts import when_interrupted
from deepseek.cli.output import AsJson, console, error_console, print_json, print_table, progress_bar
from deepseek.cli.precision import event_text
from deepseek.client import connect
from deepseek.models.manifest import ModelManifest
from deepseek.models.selection import DEFAULT_ACCEPTED_LOSS, exported, select
from protos.job.v1 import job_pb2
from protos.trainer.v1 import trainer_pb2


def train(
    spec: Annotated[
        Path, typer.Argument(help="Run spec, JSON or TOML, with the fields of RunSpec.", exists=True, dir_okay=False)
    ],
    dataset: Annotated[str, typer.Option(help="Data set version; overrides the spec's.")] = "",
    model: Annotated[str, typer.Option(help="Export the result as a version of this model.")] = "",
    int8: Annotated[
        bool, typer.Option("--int8", help="Also quantise to int8; served where 1.3 times as fast and accurate enough.")
    ] = False,
    int8_max_loss: Annotated[
        float,
        typer.Option(min=0, max=1, help="Largest accepted loss of the first metric by quantising, from 0 (none) to 1."),
    ] = DEFAULT_ACCEPTED_LOSS,
    fresh: Annotated[bool, typer.Option("--fresh", help="Train even if an equal run exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a model and, with --model, export and register it.

    The run continues after Ctrl-C: the same command attaches to it again, and `deepseek run stop` ends it.
    """
    document = read_spec(spec)
    if dataset:
        document["dataset_version"] = dataset
    with connect() as mesh:
        run, reused = mesh.runs.submit(document, reuse=not fresh)
        console.print(f"{run.name} {'exists already' if reused else 'submitted'}")
        with leaving(run.name), progress_bar() as bar:
            show_run(bar, mesh.runs.watch(run.name), waits_for=waiting(run))
        run = mesh.runs.wait(run.name)
        result = {"run": run.name, "metrics": {m.name: m.value for m in run.metrics}, "train_s": run.train_s}
        if model:
            again = f"stopped watching; the export of {run.name} continues, and the same command shows its result"
            with when_interrupted(again), progress_bar() as bar:
                task = bar.add_task("exporting", total=1, note="")
                version = mesh.runs.export(
                    run.name,
                    model,
                    int8=int8,
                    int8_max_loss=int8_max_loss,
                    on_change=lambda job: bar.update(task, completed=job.progress, note=job.message),
                )
            manifest = mesh.models.manifest(version)
            result |= {"model_version": version.name, **_files(manifest, int8=int8)}
    if as_json:
        print_json(result)
    else:
        console.print(f"{run.name}: {', '.join(f'{m.name} {m.value:.4f}' for m in run.metrics)} in {run.train_s:.1f} s")
        if model:
            console.print(f"registered {version.name}")
            _show_files(manifest, result)


def _files(manifest: ModelManifest, *, int8: bool) -> dict[str, Any]:
    """The measured forms of a version, and which one is preferred and why."""
    preferred, reason = select(exported(manifest.measurements, manifest.accepted_loss or 0.0))
    if int8 and all(one.variant != "int8" for one in manifest.measurements):
        reason = "the int8 file is left out: its metric is not finite, or one request and its answer exceed 16 MiB"
    return {
        "files": [vars(measurement) for measurement in manifest.measurements],
        "preferred": manifest.measurements[preferred].variant,
        "preferred_reason": reason,
    }


def _show_files(manifest: ModelManifest, result: Mapping[str, Any]) -> None:
    rows = [
        (one.variant, f"{one.latency_ms:.2f} ms", f"{one.metric} {one.value:.4f}", one.instruction_set)
        for one in manifest.measurements
    ]
    print_table(["form", "one request", "on the evaluation split", "processor"], rows)
    text = f"preferred: {result['preferred']}: {result['preferred_reason']}; inference checks this again where it loads"
    console.print(f"{text} the version", markup=False, highlight=False, soft_wrap=True)


def read_spec(path: Path) -> dict[str, Any]:
    """Reads a run spec from a JSON or TOML file.

    Raises:
        InvalidArgument: BAD_SPEC_FILE if it is neither, or cannot be read.
    """
    form, parse = ("TOML", tomllib.loads) if path.suffix == ".toml" else ("JSON", json.loads)
    try:
        document = parse(read_text(path))
    except NotUtf8 as error:
        raise InvalidArgument("BAD_SPEC_FILE", f"{path} {error}", field="spec") from error
    except (OSError, ValueError) as error:
        message = f"{path} is not valid {form}: {error}"
        raise InvalidArgument("BAD_SPEC_FILE", message, field="spec") from error
    if not isinstance(document, dict):
        raise InvalidArgument("BAD_SPEC_FILE", f"{path} does not hold an object", field="spec")
    return document


def leaving(run: str) -> AbstractContextManager[None]:
    """For watching a run: Ctrl-C stops watching, and the message says that the run continues and how to manage it."""
    run_id = run.removeprefix("runs/")
    text = f"stopped watching; {run} continues\n  watch it: deepseek run watch {run_id}\n  stop it:  "
    return when_interrupted(f"{text}deepseek run stop {run_id}")


def waiting(run: trainer_pb2.Run) -> str:
    """What a run waits for; empty if it has started."""
    return run.job.message if run.job.state == job_pb2.JOB_STATE_PENDING else ""


def show_run(
    bar: Progress, events: Iterable[trainer_pb2.RunEvent], *, waits_for: str = ""
) -> list[trainer_pb2.RunEvent]:
    """Shows a run's events on a progress bar until it ends, and returns them.

    Args:
        bar: The progress bar.
        events: Events of the run.
        waits_for: What the run waits for, if it has not started.
    """
    task = bar.add_task("training", total=None, note=waits_for or "starting the workers")
    if waits_for:
        error_console.print(waits_for, markup=False, highlight=False, soft_wrap=True)
    seen, measured = [], ""
    for event in events:
        seen.append(event)
        if event.HasField("step"):
            step = event.step
            figures = {metric.name: metric.value for metric in step.metrics}
            loss = figures.get("loss", float("nan"))
            note = f"loss {loss:.3f}{measured}  epoch {step.epoch}  {step.samples_per_second:.0f} samples/s"
            bar.update(task, total=step.num_steps, completed=step.step, note=note)
        elif event.HasField("evaluation"):
            measured = "".join(f"  {m.name} {m.value:.4f}" for m in event.evaluation.metrics if m.name != "loss")
        elif event.HasField("warning"):
            error_console.print(f"warning: {event.warning.message}", style="bold yellow", markup=False, soft_wrap=True)
        elif event.HasField("precision"):
            error_console.print(
                f"precision: {event_text(event.precision)}", markup=False, highlight=False, soft_wrap=True
            )
        elif event.HasField("attempt") and event.attempt.start_step:
            bar.update(task, note=f"resumed from step {event.attempt.start_step}")
    return seen
