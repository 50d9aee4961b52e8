"""`deepseek run`: lists, searches, shows, watches, steers, stops, labels, plots, compares and deletes training runs."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf import json_format

from common.errors import InvalidArgument
from deepseek.cli.completion import RUN
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
from deepseek.cli.run_figures import Condition, facts, label, matching, ordered, parameters, read_tag, state
from deepseek.cli.run_steer import steer
from deepseek.cli.train import leaving, outcome, show_run, waiting
from deepseek.client import Mesh, connect
from deepseek.client.names import run_name
from protos.trainer.v1 import trainer_pb2

app = typer.Typer(
    help="List, search, show, watch, steer, stop, label, plot, compare and delete training runs.", no_args_is_help=True
)
app.command()(steer)

RunName = Annotated[
    str, typer.Argument(metavar="RUN", help="Name or id of a run; see `deepseek run list`.", autocompletion=RUN)
]
RunNames = Annotated[
    list[str],
    typer.Argument(metavar="RUN...", help="Names or ids of runs; see `deepseek run list`.", autocompletion=RUN),
]
_LISTED = 20


@app.command("list")
def list_runs(
    every: Annotated[bool, typer.Option("--all", help=f"List all runs, not only the first {_LISTED}.")] = False,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION",
            help="Only runs that meet this condition on a figure, a field of the spec, `name` or `note`, e.g. "
            "'accuracy>0.9', 'optimizer.name=sgd' or 'note~baseline'. Operators: > >= < <= = !=, and ~ for "
            "texts that contain the value. Several conditions must all be met.",
        ),
    ] = None,
    tag: Annotated[list[str] | None, typer.Option(metavar="KEY=VALUE", help="Only runs with this tag.")] = None,
    sort: Annotated[str, typer.Option(metavar="FIGURE", help="Order by this figure, the greatest first.")] = "",
    ascending: Annotated[bool, typer.Option("--ascending", help="With --sort: the smallest first.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the runs, newest first."""
    conditions = [Condition.parse(text) for text in where or ()]
    tags = [read_tag(text, field="--tag") for text in tag or ()]
    with connect() as mesh:
        found = matching(mesh.runs.list(), conditions, tags)
        if sort:
            found = ordered(found, sort, ascending=ascending)
        runs = [run for run, _ in zip(found, range(1 << 62 if every else _LISTED), strict=False)]
    if as_json:
        print_json([_document(run) for run in runs])
        return
    rows = [(run.name, run.display_name, state(run), _model(run), outcome(run), _tags(run)) for run in runs]
    used = [i for i in range(6) if i in (0, 2, 3, 4) or any(row[i] for row in rows)]
    columns = ["run", "name", "state", "model", "figures", "tags"]
    is_search = bool(conditions or tags)
    none = "no run meets these conditions" if is_search else "there are no runs; start one with `deepseek train`"
    print_table([columns[i] for i in used], [[row[i] for i in used] for row in rows], none=none)


@app.command()
def show(run: RunName, as_json: AsJson = False) -> None:
    """Show the state, metrics, labels and spec of a run."""
    name = run_name(run)
    with connect() as mesh:
        found = mesh.runs.get(name)
    spec = json_format.MessageToDict(found.spec, preserving_proto_field_name=True)
    if as_json:
        print_json({**_document(found), "spec": spec})
        return
    print_table(["run", "state", "model", "figures"], [(found.name, state(found), _model(found), outcome(found))])
    for title, text in (("name", found.display_name), ("tags", _tags(found)), ("note", found.note)):
        if text:
            console.print(f"{title}: {text}", highlight=False, soft_wrap=True)
    if found.best_epoch:
        console.print(f"the figures are those of epoch {found.best_epoch} (step {found.best_step})", highlight=False)
    console.print(f"trained for {found.train_s:.1f} s", highlight=False)
    if found.HasField("privacy"):
        console.print(_privacy(found), highlight=False, soft_wrap=True)
    print(
        json_format.MessageToJson(found.parameters if found.external else found.spec, preserving_proto_field_name=True)
    )


@app.command()
def watch(run: RunName, as_json: AsJson = False) -> None:
    """Show the progress of a run until it ends. The run continues after Ctrl-C."""
    name = run_name(run)
    with connect() as mesh:
        found = mesh.runs.get(name)
        with leaving(name), progress_bar() as bar:
            show_run(bar, mesh.runs.watch(name), waits_for=waiting(found))
            found = mesh.runs.wait(name)
    if as_json:
        print_json(_document(found))
    else:
        console.print(f"{found.name}: {outcome(found)} in {found.train_s:.1f} s", highlight=False)


@app.command()
def stop(run: RunName, as_json: AsJson = False) -> None:
    """Stop a run after its current step, or at once if it has not started. The run keeps its last checkpoint.

    `deepseek train` with the same spec resumes training from this checkpoint.
    """
    name = run_name(run)
    with connect() as mesh:
        found = mesh.runs.stop(name)
    if as_json:
        print_json(_document(found))
    else:
        console.print(f"{found.name}: {state(found)}", highlight=False)


@app.command()
def tag(
    run: RunName,
    tags: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Tags to add or replace.")] = None,
    remove: Annotated[list[str] | None, typer.Option(metavar="KEY", help="Remove the tag with this key.")] = None,
    name: Annotated[str | None, typer.Option(help="Name for people; an empty text removes it.")] = None,
    note: Annotated[str | None, typer.Option(help="Free text; an empty text removes it.")] = None,
    as_json: AsJson = False,
) -> None:
    """Change the tags, name and note of a run, by which `deepseek run list` finds and shows it."""
    of = run_name(run)
    pairs = dict(read_tag(text) for text in tags or ())
    with connect() as mesh:
        found = mesh.runs.update(of, display_name=name, note=note, set_tags=pairs, remove_tags=remove or ())
    if as_json:
        print_json(_document(found))
    else:
        shown = "; ".join(text for text in (found.display_name, _tags(found), found.note) if text)
        console.print(f"{found.name}: {shown or 'no labels'}", highlight=False, soft_wrap=True)


@app.command()
def plot(
    *,
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]...", help="Names or ids of runs; default: the newest run with figures.", autocompletion=RUN
        ),
    ] = None,
    out: Annotated[Path, typer.Option(metavar="FILE", help="Picture to write: .png, .svg or .pdf.")],
    metric: Annotated[
        list[str] | None, typer.Option(help="Figure to draw; by default all figures. Repeat for several.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw the curves of one or several runs in one picture. A star marks the best epoch.

    Without RUN, draw the newest run that has figures.
    """
    from deepseek.cli import run_plot

    names = _distinct(runs or ())
    run_plot.check_drawable(out)
    make_folder(out.parent, "--out")
    with connect() as mesh:
        histories = [(mesh.runs.get(name), mesh.runs.history(name)) for name in names] if names else _newest(mesh)
    names = [run.name for run, _ in histories]
    figures = metric or run_plot.figures_of(histories)
    with writing(out, "--out"):
        run_plot.draw(histories, figures, out)
    if as_json:
        print_json({"file": str(out), "runs": names, "metrics": figures})
    else:
        console.print(f"{out}: {', '.join(figures)} of {', '.join(names)}", highlight=False, soft_wrap=True)


@app.command()
def compare(
    runs: RunNames,
    as_json: AsJson = False,
) -> None:
    """Compare runs: the fields of their specs that differ, and their figures."""
    names = _distinct(runs)
    if len(names) < 2:
        raise InvalidArgument("BAD_VALUE", "name at least two different runs", field="RUN")
    with connect() as mesh:
        found = [mesh.runs.get(name) for name in names]
    given = [parameters(run) for run in found]
    differing = [path for path in dict.fromkeys(path for one in given for path in one) if _differ(given, path)]
    figures = list(dict.fromkeys(metric.name for run in found for metric in run.metrics))
    results = ["state", *figures, "best_epoch", "train_s"]
    if as_json:
        print_json(
            {
                "runs": names,
                "differences": {path: [one.get(path) for one in given] for path in differing},
                "figures": {name: [facts(run).get(name) for run in found] for name in results},
            }
        )
        return
    rows = (
        [("run", *(run.name.removeprefix("runs/") for run in found))] if any(run.display_name for run in found) else []
    )
    rows += [(path, *(_text(one.get(path)) for one in given)) for path in differing]
    rows += [(name, *(_text(facts(run).get(name)) for run in found)) for name in results]
    print_table(["", *(label(run) for run in found)], rows)


@app.command()
def delete(runs: RunNames, as_json: AsJson = False) -> None:
    """Delete runs with their histories. `deepseek gc` then frees their checkpoints.

    A run that is active, or from which a model version was made, cannot be deleted.
    """
    names = _distinct(runs)
    with connect() as mesh:
        for name in names:
            mesh.runs.delete(name)
            console.print(f"deleted {name}", highlight=False)
    if as_json:
        print_json({"deleted": names})


def _newest(mesh: Mesh) -> list[tuple[trainer_pb2.Run, list[trainer_pb2.RunEvent]]]:
    """Returns the newest run that has figures, with its history; if no run has figures, the newest run, if any."""
    from deepseek.cli.run_plot import figures_of

    newest: list[tuple[trainer_pb2.Run, list[trainer_pb2.RunEvent]]] = []
    for run in mesh.runs.list():
        found = [(run, mesh.runs.history(run.name))]
        if figures_of(found):
            for one, _ in newest:
                text = f"{one.name} is {state(one)} and has no figures; drawing {run.name}"
                error_console.print(text, highlight=False, soft_wrap=True)
            return found
        newest = newest or found
    return newest


def _distinct(runs: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(run_name(run) for run in runs))


def _differ(given: Sequence[dict[str, Any]], path: str) -> bool:
    return any(one.get(path) != given[0].get(path) for one in given)


def _text(value: object) -> str:
    return "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _model(run: trainer_pb2.Run) -> str:
    return "(external)" if run.external else run.spec.model.name


def _tags(run: trainer_pb2.Run) -> str:
    return ", ".join(f"{tag.key}={tag.value}" for tag in run.tags)


def _privacy(run: trainer_pb2.Run) -> str:
    """Returns how a run is protected, e.g. `privacy: noise multiplier 1.1 for epsilon 3, 2000 steps, budgets/wine`."""
    release, stated = run.privacy.release, run.spec.privacy
    aim = f" for epsilon {stated.target_epsilon:g}" if stated.HasField("target_epsilon") else ""
    return f"privacy: noise multiplier {release.noise_multiplier:g}{aim}, {release.count} steps, {run.privacy.budget}"


def _document(run: trainer_pb2.Run) -> dict[str, Any]:
    return {
        "run": run.name,
        "name": run.display_name,
        "state": state(run),
        "message": run.job.message,
        "error": json_format.MessageToDict(run.job.error) if run.job.HasField("error") else None,
        "progress": run.job.progress,
        "metrics": {m.name: m.value for m in run.metrics},
        "best_epoch": run.best_epoch,
        "best_step": run.best_step,
        "train_s": run.train_s,
        "model": run.spec.model.name,
        "dataset_version": run.spec.dataset_version,
        "num_threads": run.num_threads,
        "tags": {tag.key: tag.value for tag in run.tags},
        "note": run.note,
        "external": run.external,
        "parameters": json_format.MessageToDict(run.parameters),
        "privacy": (
            json_format.MessageToDict(run.privacy, preserving_proto_field_name=True)
            if run.HasField("privacy")
            else None
        ),
    }
