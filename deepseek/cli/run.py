"""`deepseek run`: list, show, watch and stop the training runs of a mesh."""

from typing import Annotated, Any

import typer
from google.protobuf import json_format

from deepseek.cli.output import AsJson, console, print_json, print_table, progress_bar
from deepseek.cli.train import leaving, show_run, waiting
from deepseek.client import connect
from protos.job.v1 import job_pb2
from protos.trainer.v1 import trainer_pb2

app = typer.Typer(help="List, show, watch and stop training runs.", no_args_is_help=True)

RunName = Annotated[str, typer.Argument(metavar="RUN", help="Name or id of a run; see `deepseek run list`.")]
_LISTED = 20


@app.command("list")
def list_runs(
    every: Annotated[bool, typer.Option("--all", help=f"List all runs, not only the newest {_LISTED}.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the runs, newest first."""
    with connect() as mesh:
        runs = [run for run, _ in zip(mesh.runs.list(), range(1 << 62 if every else _LISTED), strict=False)]
    if as_json:
        print_json([_document(run) for run in runs])
    else:
        rows = [(run.name, _state(run), run.spec.model.name, _outcome(run)) for run in runs]
        print_table(["run", "state", "model", ""], rows)


@app.command()
def show(run: RunName, as_json: AsJson = False) -> None:
    """Show the state, figures and spec of a run."""
    with connect() as mesh:
        found = mesh.runs.get(_name(run))
    if as_json:
        print_json(
            {**_document(found), "spec": json_format.MessageToDict(found.spec, preserving_proto_field_name=True)}
        )
        return
    print_table(["run", "state", "model", ""], [(found.name, _state(found), found.spec.model.name, _outcome(found))])
    console.print(f"trained for {found.train_s:.1f} s", highlight=False)
    print(json_format.MessageToJson(found.spec, preserving_proto_field_name=True))


@app.command()
def watch(run: RunName, as_json: AsJson = False) -> None:
    """Show the progress of a run until it ends. The run continues after Ctrl-C."""
    name = _name(run)
    with connect() as mesh:
        found = mesh.runs.get(name)
        with leaving(name), progress_bar() as bar:
            show_run(bar, mesh.runs.watch(name), waits_for=waiting(found))
        found = mesh.runs.wait(name)
    if as_json:
        print_json(_document(found))
    else:
        console.print(f"{found.name}: {_outcome(found)} in {found.train_s:.1f} s", highlight=False)


@app.command()
def stop(run: RunName, as_json: AsJson = False) -> None:
    """Stop a run after its current step; a waiting run ends at once. It keeps its last checkpoint.

    `deepseek train` with the same spec resumes it from there.
    """
    with connect() as mesh:
        found = mesh.runs.stop(_name(run))
    if as_json:
        print_json(_document(found))
    else:
        console.print(f"{found.name}: {_state(found)}", highlight=False)


def _name(run: str) -> str:
    return run if "/" in run else f"runs/{run}"


def _state(run: trainer_pb2.Run) -> str:
    return job_pb2.JobState.Name(run.job.state).removeprefix("JOB_STATE_").lower()


def _outcome(run: trainer_pb2.Run) -> str:
    """The outcome of a run, or its current activity."""
    if run.job.HasField("error"):
        return run.job.error.message.partition("\n")[0]
    return ", ".join(f"{m.name} {m.value:.4f}" for m in run.metrics) or run.job.message


def _document(run: trainer_pb2.Run) -> dict[str, Any]:
    return {
        "run": run.name,
        "state": _state(run),
        "message": run.job.message,
        "error": json_format.MessageToDict(run.job.error) if run.job.HasField("error") else None,
        "progress": run.job.progress,
        "metrics": {m.name: m.value for m in run.metrics},
        "train_s": run.train_s,
        "model": run.spec.model.name,
        "dataset_version": run.spec.dataset_version,
        "num_threads": run.num_threads,
    }
