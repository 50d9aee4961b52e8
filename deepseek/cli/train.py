"""`deepseek train`: submits a run and shows its progress."""

from collections.abc import Iterable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import Progress

from common.errors import InvalidArgument, NotFound
from deepseek.cli.completion import BUDGET, DATASET_VERSION, MODEL, POLICY
from deepseek.cli.interrupts import when_interrupted
from deepseek.cli.output import AsJson, console, error_console, print_json, print_table, progress_bar
from deepseek.cli.precision import event_text
from deepseek.cli.privacy_options import PRIVACY_OPTIONS, change_privacy, chosen_privacy, naming_options
from deepseek.cli.run_figures import read_tag
from deepseek.cli.spec_files import read_spec
from deepseek.cli.train_task import write_task_spec
from deepseek.client import Mesh, connect
from deepseek.client.names import series_id, version_name
from deepseek.models.manifest import ModelManifest
from deepseek.models.selection import DEFAULT_ACCEPTED_LOSS, exported, select
from deepseek.steering.policy import policy_name
from protos.job.v1 import job_pb2
from protos.trainer.v1 import trainer_pb2


def train(
    spec: Annotated[
        Path | None,
        typer.Argument(
            help="Run spec in JSON or TOML, with the fields of RunSpec; leave it out with --task.",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    dataset: Annotated[
        str,
        typer.Option(
            help="The data set version, e.g. colours:3; overrides the one in the spec.", autocompletion=DATASET_VERSION
        ),
    ] = "",
    task: Annotated[
        str,
        typer.Option(
            help="Derive the spec from the data set: image-classification, tabular, text-classification, "
            "audio-classification or language-model."
        ),
    ] = "",
    target: Annotated[str, typer.Option(help="With --task: field to predict.")] = "",
    train_split: Annotated[
        str, typer.Option(help="With --task: split to train on; default: train, or the only split.")
    ] = "",
    out: Annotated[
        Path | None, typer.Option(help="With --task: file for the spec; default: DATASET.TASK.json.", dir_okay=False)
    ] = None,
    spec_only: Annotated[
        bool, typer.Option("--spec-only", help="With --task: write and print the spec, and train nothing.")
    ] = False,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Maximum number of epochs; overrides the one in the spec.")
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            help="Policy that adjusts the learning rate, e.g. plateau; see `deepseek components policy`.",
            autocompletion=POLICY,
        ),
    ] = "",
    clip_norm: Annotated[
        float | None, typer.Option(help="With privacy: bound on the norm of the gradient of one example.")
    ] = None,
    noise: Annotated[float | None, typer.Option(help="With privacy: noise multiplier.")] = None,
    epsilon: Annotated[
        float | None, typer.Option(help="With privacy: epsilon that the run may spend; chooses the noise.")
    ] = None,
    example_rate: Annotated[
        float | None, typer.Option(help="With privacy: probability of an example per training step.")
    ] = None,
    budget: Annotated[str, typer.Option(help="Train with privacy, and debit this budget.", autocompletion=BUDGET)] = "",
    model: Annotated[
        str, typer.Option(help="Export the result as a version of this model.", autocompletion=MODEL)
    ] = "",
    int8: Annotated[
        bool,
        typer.Option(
            "--int8",
            help="Also export an int8 file; served where it is accurate and at least 1.3 times as fast as float32.",
        ),
    ] = False,
    int8_max_loss: Annotated[
        float,
        typer.Option(min=0, max=1, help="Maximum loss in the first metric due to quantization, from 0 (none) to 1."),
    ] = DEFAULT_ACCEPTED_LOSS,
    name: Annotated[str, typer.Option(help="Name of the run, for people; see `deepseek run list`.")] = "",
    tag: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Tag of the run.")] = None,
    note: Annotated[str, typer.Option(help="Note of the run, for people.")] = "",
    fresh: Annotated[bool, typer.Option("--fresh", help="Train again, even if an equal run exists.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train a model and, with --model, export and register it.

    The run continues after Ctrl-C: the same command attaches to it again, and `deepseek run stop` ends it.
    """
    if (spec is None) == (not task):
        raise InvalidArgument("MISSING_FIELD", "pass either a spec or --task with --dataset", field="spec")
    if task and not dataset:
        raise InvalidArgument("MISSING_FIELD", "--task needs --dataset, e.g. --dataset colours", field="--dataset")
    of_task = {"--target": target, "--train-split": train_split, "--out": out, "--spec-only": spec_only}
    _check_needed(of_task, "--task", task)
    _check_needed({"--int8": int8}, "--model", model)
    _check_needed({"--int8-max-loss": int8_max_loss != DEFAULT_ACCEPTED_LOSS}, "--int8", int8)
    for option, value in {"--name": name, "--tag": tag, "--note": note, "--fresh": fresh}.items():
        if spec_only and value:
            raise InvalidArgument("BAD_VALUE", f"--spec-only submits no run; omit {option}", field=option)
    model = series_id(model, "models", field="--model") if model else ""
    tags = dict(read_tag(text, field="--tag") for text in tag or ())
    privacy = chosen_privacy(
        clip_norm=clip_norm, noise=noise, epsilon=epsilon, example_rate=example_rate, budget=budget
    )
    if task and privacy:
        message = (
            "--task derives settings from the data without noise, so they would not be private; train a spec whose "
            "settings do not depend on the data"
        )
        raise InvalidArgument("BAD_VALUE", message, field="--task")
    document = read_spec(spec) if spec else {}
    change_privacy(document, privacy)
    if dataset:
        document["dataset_version"] = version_name(dataset, "datasets", field="--dataset")
    if epochs:
        document["epochs"] = epochs
    if policy := policy_name(policy):
        document["policy"] = {"name": policy}
    with connect() as mesh:
        if task:
            options = registering(model, int8=int8, int8_max_loss=int8_max_loss)
            options = options or (["--model", "NAME"] if spec_only else [])
            document, path = write_task_spec(
                mesh, task, dataset, target, train_split, out, epochs=epochs, policy=policy, options=options
            )
        if spec_only:
            if as_json:
                print_json({"file": str(path), "spec": document})
            return
        with naming_options(PRIVACY_OPTIONS):
            run, reused = mesh.runs.submit(document, reuse=not fresh, exportable=bool(model))
        if name or tags or note:
            mesh.runs.update(run.name, display_name=name or None, note=note or None, set_tags=tags)
        console.print(f"{run.name} {'already exists' if reused else 'submitted'}")
        with leaving(run.name), progress_bar() as bar:
            show_run(bar, mesh.runs.watch(run.name), waits_for=waiting(run))
            run = mesh.runs.wait(run.name)
        result: dict[str, Any] = {
            "run": run.name,
            "metrics": {m.name: m.value for m in run.metrics},
            "best_epoch": run.best_epoch,
            "train_s": run.train_s,
        }
        if model:
            earlier = _version_names(mesh, model)
            again = f"stopped watching; the export of {run.name} continues, and the same command shows its result"
            with when_interrupted(again), progress_bar() as bar:
                bar_task = bar.add_task("exporting", total=1, note="")
                version = mesh.runs.export(
                    run.name,
                    model,
                    int8=int8,
                    int8_max_loss=int8_max_loss,
                    on_change=lambda job: bar.update(bar_task, completed=job.progress, note=job.message),
                )
            manifest = mesh.models.manifest(version)
            is_new = version.name not in earlier
            result |= {"model_version": version.name, "created": is_new, **_files(manifest, int8=int8)}
    if as_json:
        print_json(result)
    else:
        console.print(f"{run.name}: {outcome(run)} in {run.train_s:.1f} s")
        if model:
            console.print(f"registered {version.name}" if is_new else f"{version.name} already exists")
            _show_files(manifest, result)


def _check_needed(options: Mapping[str, Any], needed: str, present: Any) -> None:
    """Checks that no option is given that has no effect without another one."""
    for option, value in options.items():
        if value and not present:
            raise InvalidArgument("MISSING_FIELD", f"{option} needs {needed}; pass it, or omit {option}", field=needed)


def registering(model: str, *, int8: bool, int8_max_loss: float) -> list[str]:
    """Returns the options of `deepseek train` that register the result with these settings; empty without a model."""
    loss = ["--int8-max-loss", f"{int8_max_loss:g}"] if int8_max_loss != DEFAULT_ACCEPTED_LOSS else []
    return ["--model", model, *(["--int8", *loss] if int8 else [])] if model else []


def _version_names(mesh: Mesh, model: str) -> set[str]:
    """Returns the names of the versions of a model, which need not exist."""
    try:
        return {version.name for version in mesh.models.versions(model)}
    except NotFound:
        return set()


def _files(manifest: ModelManifest, *, int8: bool) -> dict[str, Any]:
    """Returns the measurements of a version's files, which file is preferred, and why."""
    preferred, reason = select(exported(manifest.measurements, manifest.accepted_loss or 0.0))
    if int8 and all(one.variant != "int8" for one in manifest.measurements):
        reason = "there is no int8 file: its metric is not finite, or one request and its response exceed 16 MiB"
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
    print_table(["file", "one request", "on the evaluation split", "processor"], rows)
    text = (
        f"preferred file: {result['preferred']} ({result['preferred_reason']}). The inference service checks this again"
    )
    console.print(f"{text} when it loads the version", highlight=False, soft_wrap=True)


def leaving(run: str) -> AbstractContextManager[None]:
    """If Ctrl-C ends the command inside the `with` block, shows that the run continues, and how to watch or stop it."""
    run_id = run.removeprefix("runs/")
    text = f"stopped watching; {run} continues\n  watch it: deepseek run watch {run_id}\n  stop it:  "
    return when_interrupted(f"{text}deepseek run stop {run_id}")


def outcome(run: trainer_pb2.Run) -> str:
    """Returns a run's error message or its figures; if it has neither yet, returns what the run is doing."""
    if run.job.HasField("error"):
        return run.job.error.message.partition("\n")[0]
    figures = ", ".join(f"{m.name} {m.value:.4f}" for m in run.metrics)
    best = f" (epoch {run.best_epoch})" if run.best_epoch else ""
    return f"{figures}{best}" if figures else run.job.message


def waiting(run: trainer_pb2.Run) -> str:
    """Returns what a run is waiting for before it can start; an empty string if the run is not waiting."""
    return run.job.message if run.job.state == job_pb2.JOB_STATE_PENDING else ""


def show_run(
    bar: Progress, events: Iterable[trainer_pb2.RunEvent], *, waits_for: str = ""
) -> list[trainer_pb2.RunEvent]:
    """Shows a run's events on a progress bar until the run ends, and returns the events.

    Args:
        bar: The progress bar.
        events: Events of the run, as they occur.
        waits_for: Message that says what the run is waiting for before it can start; empty if it is not waiting.
    """
    task = bar.add_task("training", total=None, note=waits_for or "starting the workers")
    if waits_for:
        error_console.print(waits_for, highlight=False, soft_wrap=True)
    seen, measured = [], ""
    for event in events:
        seen.append(event)
        if event.HasField("step"):
            step = event.step
            figures = {metric.name: metric.value for metric in step.metrics}
            if step.num_steps:
                loss = figures.get("loss", float("nan"))
                note = f"loss {loss:.3f}{measured}  epoch {step.epoch}  {step.samples_per_second:.0f} samples/s"
            else:  # a program outside the mesh executes the run
                note = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
            bar.update(task, total=step.num_steps or None, completed=step.step, note=note)
        elif event.HasField("evaluation"):
            measured = "".join(f"  {m.name} {m.value:.4f}" for m in event.evaluation.metrics if m.name != "loss")
            if event.evaluation.ends_run:
                text = f"epoch {event.evaluation.epoch}: training ends early, because the model no longer improves"
                error_console.print(text, highlight=False, soft_wrap=True)
        elif event.HasField("adjustment"):
            rate = event.adjustment.new.learning_rate
            bar.update(task, note=f"{event.adjustment.policy}: learning rate {rate:.3g}")
        elif event.HasField("directive") and not event.directive.HasField("error"):
            text = f"step {event.directive.applied_step}: {event.directive.action.replace('_', ' ')}"
            error_console.print(text, highlight=False)
        elif event.HasField("warning"):
            error_console.print(f"warning: {event.warning.message}", style="bold yellow", soft_wrap=True)
        elif event.HasField("precision"):
            error_console.print(f"precision: {event_text(event.precision)}", highlight=False, soft_wrap=True)
        elif event.HasField("attempt") and event.attempt.start_step:
            text = f"resumed at step {event.attempt.start_step}"
            bar.update(task, note=text)
            error_console.print(text, highlight=False)
    return seen
