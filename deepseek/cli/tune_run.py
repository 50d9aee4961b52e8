"""`deepseek tune SPEC`: creates a study, runs it on the trainer, and shows its trials while they train."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from google.protobuf import json_format
from rich.live import Live

from common.errors import ERROR_CLASSES, AlreadyExists, Internal, MeshError, Violation
from deepseek.cli.interrupts import when_interrupted
from deepseek.cli.output import AsJson, bold, console, error_console, print_json, print_table
from deepseek.cli.spec_files import read_spec
from deepseek.cli.tune_table import COLUMNS, NO_BEST, StudyTable, rows, run_state, study_document, trial_document
from deepseek.client import Mesh, connect
from deepseek.client.names import study_name
from deepseek.client.runs import parse_spec
from deepseek.client.studies import parse_study_spec
from deepseek.progress import is_watched
from deepseek.search.study_run import StudyBudget
from deepseek.search.study_spec import StudySpec
from deepseek.trainjob import json_values
from protos.tuner.v1 import tuner_pb2 as pb

_FIELDS = ("name", "study", "run", "fields", "metric", "budget")


def run(
    spec: Annotated[
        Path,
        typer.Argument(
            help="YAML, JSON or TOML file with a study, a run spec and a budget; see docs/tuning.md.",
            exists=True,
            dir_okay=False,
        ),
    ],
    name: Annotated[str, typer.Option(help="Name of the study; default: `name` in the file, or its file name.")] = "",
    detach: Annotated[bool, typer.Option("--detach", help="Start the study, and do not wait for its end.")] = False,
    as_json: AsJson = False,
) -> None:
    """Search for good values of parameters of a training: `deepseek tune SPEC`.

    Every trial is a training run. The study continues after Ctrl-C: the same command attaches to it again, and
    `deepseek tune stop` ends it. With a greater budget in the file, the command continues a study that has ended.
    """
    document = read_spec(spec)
    json_values.check_keys(document, dict.fromkeys(_FIELDS), "spec")
    given = name or json_values.text(document.get("name", ""), "name") or spec.stem
    study = study_name(given, field="--name" if name else "name").removeprefix("studies/")
    parameters = StudySpec.from_json(document.get("study", {}), path="study")
    run_spec = parse_spec(document.get("run", {}), path="run")
    fields = document.get("fields", {})
    json_values.check_keys(fields, {one.name: None for one in parameters.space.parameters}, "fields")
    paths = {parameter: json_values.text(path, f"fields.{parameter}") for parameter, path in fields.items()}
    metric = json_values.text(document.get("metric", ""), "metric")
    budget = StudyBudget.from_json(document.get("budget", {}), "budget")
    with connect() as mesh:
        _create(mesh, study, parameters)
        with _in_file("spec.", ""):
            started = mesh.studies.run(study, run_spec, fields=paths, metric=metric, **vars(budget))
        if detach:
            if as_json:
                print_json(study_document(started))
            else:
                console.print(f"{started.name} runs; watch it with", bold(f"deepseek tune watch {study}"))
            return
        console.print(f"{started.name} runs", highlight=False)
        watch_study(mesh, started)
        ended = mesh.studies.get(study)
        best = list(mesh.studies.optimal(study))
    if ended.run.state == pb.STUDY_RUN_STATE_FAILED:
        error = ended.run.job.error
        raise ERROR_CLASSES.get(error.code, Internal)(error.reason, error.message)
    if as_json:
        print_json({**study_document(ended), "best": [trial_document(one) for one in best]})
    else:
        print_table(COLUMNS, rows(best), none=NO_BEST)
        console.print(f"{ended.name}: {run_state(ended.run)}, {ended.run.message}", highlight=False)


def watch_study(mesh: Mesh, study: pb.Study, *, stored: bool = False) -> StudyTable:
    """Shows the trials of a study as they change, until its end, and returns their last state.

    Args:
        mesh: The mesh.
        study: The study.
        stored: Whether to end after the trials so far.
    """
    table = StudyTable(study)
    with when_interrupted(_leaving(study.name)):
        changes = mesh.studies.follow(study.name, stored_only=stored)
        if is_watched(error_console):
            # The table is drawn a few times per second, because a study may have 10,000 trials.
            with Live(get_renderable=table.render, console=error_console, transient=True):
                for change in changes:
                    table.update(change)
        else:
            for change in changes:
                if line := table.update(change):
                    error_console.print(line, highlight=False, soft_wrap=True)
    return table


def _create(mesh: Mesh, study: str, spec: StudySpec) -> None:
    """Creates a study, unless it exists with the same spec."""
    try:
        with _in_file("spec.", "study."):
            mesh.studies.create(study, parse_study_spec(spec, path="study"))
    except AlreadyExists as error:
        if error.reason != "STUDY_EXISTS":
            raise
        stored = mesh.studies.get(study).spec
        existing = StudySpec.from_json(json_format.MessageToDict(stored, preserving_proto_field_name=True))
        if spec.with_defaults(stored.seed).canonical() != existing.canonical():
            message = f"studies/{study} exists with another spec; choose another name with --name"
            raise AlreadyExists("STUDY_EXISTS", message, field="--name") from error


@contextmanager
def _in_file(prefix: str, replacement: str) -> Iterator[None]:
    """Converts errors about a request, inside the `with` block, to errors about the fields of the file."""

    def place(field: str) -> str:
        return replacement + field.removeprefix(prefix) if field.startswith(prefix) else field

    try:
        yield
    except MeshError as error:
        violations = [Violation(place(one.field), one.description) for one in error.violations]
        raise type(error)(error.reason, error.message, violations=violations) from error


def _leaving(name: str) -> str:
    short = name.removeprefix("studies/")
    text = f"stopped watching; {name} continues\n  watch it: deepseek tune watch {short}"
    return f"{text}\n  stop it:  deepseek tune stop {short}"
