"""`deepseek tune`: creates, watches, shows and stops studies, which search for good values of parameters."""

import os
from pathlib import Path
from typing import Annotated

import click
import typer
from google.protobuf import json_format
from typer.core import TyperGroup

from deepseek.cli.completion import STUDY
from deepseek.cli.output import AsJson, bold, console, print_json, print_table
from deepseek.cli.spec_files import SUFFIXES, read_spec
from deepseek.cli.tune_plot import plot
from deepseek.cli.tune_run import run, watch_study
from deepseek.cli.tune_table import (
    COLUMNS,
    NO_BEST,
    goals,
    rows,
    run_state,
    study_document,
    study_state,
    trial_document,
)
from deepseek.client import connect
from deepseek.client.names import study_name


class _Commands(TyperGroup):
    """Reads `deepseek tune SPEC` as `deepseek tune run SPEC`."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        is_file = Path(args[0]).suffix in SUFFIXES or os.sep in args[0]
        return super().resolve_command(ctx, ["run", *args] if is_file else args)


app = typer.Typer(
    cls=_Commands,
    help="Search for good values of parameters: `deepseek tune SPEC` runs a study whose trials are training runs.",
    no_args_is_help=True,
)
app.command()(run)
app.command()(plot)

StudyName = Annotated[str, typer.Argument(metavar="STUDY", help="Name of the study.", autocompletion=STUDY)]


@app.command()
def create(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Name of the new study.")],
    spec: Annotated[
        Path,
        typer.Argument(
            help="YAML, JSON or TOML file with a StudySpec; see docs/tuning.md.", exists=True, dir_okay=False
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Create a study. Workers then ask for its trials, e.g. with `Mesh.studies` in Python."""
    with connect() as mesh:
        made = mesh.studies.create(study, read_spec(spec))
    if as_json:
        print_json(study_document(made))
        return
    console.print(f"created {made.name}; watch its trials with", bold(f"deepseek tune watch {_short(made.name)}"))


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the studies, newest first."""
    with connect() as mesh:
        studies = list(mesh.studies.list())
    if as_json:
        print_json([study_document(one) for one in studies])
        return
    rows = [
        (_short(one.name), study_state(one), f"{one.num_ended}/{one.num_trials}", one.spec.algorithm.name, goals(one))
        for one in studies
    ]
    none = "there are no studies; create one with `deepseek tune create`"
    print_table(["study", "state", "ended", "algorithm", "objectives"], rows, none=none)


@app.command()
def show(study: StudyName, as_json: AsJson = False) -> None:
    """Show a study: its state, its best trials, and its spec."""
    with connect() as mesh:
        found = mesh.studies.get(study)
        best = list(mesh.studies.optimal(study))
    spec = json_format.MessageToDict(found.spec, preserving_proto_field_name=True)
    if as_json:
        print_json({**study_document(found), "best": [trial_document(one) for one in best], "spec": spec})
        return
    console.print(
        bold(_short(found.name)), f"is {study_state(found)}: {found.num_ended} of {found.num_trials} trials ended"
    )
    if found.HasField("run"):
        console.print(f"its run is {run_state(found.run)}: {found.run.message}", highlight=False)
    print_table(COLUMNS, rows(best), none=NO_BEST)
    print(json_format.MessageToJson(found.spec, preserving_proto_field_name=True))


@app.command()
def trials(study: StudyName, as_json: AsJson = False) -> None:
    """List the trials of a study by number."""
    with connect() as mesh:
        found = list(mesh.studies.trials(study))
    if as_json:
        print_json([trial_document(one) for one in found])
        return
    print_table(COLUMNS, rows(found), none=f"{study} has no trials yet")


@app.command()
def best(study: StudyName, as_json: AsJson = False) -> None:
    """Show the best trials of a study; with several objectives, the Pareto front."""
    with connect() as mesh:
        found = list(mesh.studies.optimal(study))
    if as_json:
        print_json([trial_document(one) for one in found])
        return
    print_table(COLUMNS, rows(found), none=NO_BEST)


@app.command()
def watch(
    study: StudyName,
    stored: Annotated[bool, typer.Option("--stored", help="End after the trials so far, without waiting.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show the trials of a study as they change, until its end. The study continues after Ctrl-C."""
    with connect() as mesh:
        table = watch_study(mesh, mesh.studies.get(study), stored=stored)
    if as_json:
        print_json([trial_document(one) for one in table.trials])
        return
    print_table(COLUMNS, rows(table.trials), none=f"{study} has no trials yet")


@app.command()
def stop(study: StudyName, as_json: AsJson = False) -> None:
    """Stop a study: there are no new trials, and active trials and their runs are asked to end."""
    with connect() as mesh:
        stopped = mesh.studies.stop(study)
    if as_json:
        print_json(study_document(stopped))
        return
    num_active = stopped.num_trials - stopped.num_ended
    console.print(f"stopped {stopped.name}; {num_active} trials have not ended", highlight=False)


@app.command()
def delete(study: StudyName, as_json: AsJson = False) -> None:
    """Delete a study with its trials. The runs of the trials remain."""
    name = study_name(study, field="STUDY")
    with connect() as mesh:
        mesh.studies.delete(name)
    if as_json:
        print_json({"deleted": name})
    else:
        console.print(f"deleted {name}")


def _short(name: str) -> str:
    return name.removeprefix("studies/")
