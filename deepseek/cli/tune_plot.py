"""`deepseek tune plot`: draws a study of the mesh into a picture or a page."""

from pathlib import Path
from typing import Annotated

import typer
from google.protobuf import json_format

from deepseek.cli.completion import STUDY
from deepseek.cli.output import AsJson, console, make_folder, print_json, writing
from deepseek.client import connect
from deepseek.client.names import study_name
from deepseek.search.plot_files import PlotKind
from deepseek.search.plots import check_output, checked_kind, chosen_objectives, plot_study
from deepseek.search.space import Choices, Domain, IntegerRange, Value
from deepseek.search.study_spec import StudySpec
from deepseek.search.trials import Trial, TrialState
from protos.tuner.v1 import tuner_pb2 as pb


def plot(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="Name of the study.", autocompletion=STUDY)],
    output: Annotated[
        Path, typer.Argument(help="Picture (.png, .svg, .pdf) or page (.html) to write.", dir_okay=False)
    ],
    kind: Annotated[
        PlotKind | None, typer.Option(help="Kind of plot; default: history, or pareto if there are several objectives.")
    ] = None,
    metric: Annotated[
        list[str] | None, typer.Option(help="Objective to draw; by default all of them. Repeat for several.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw a study: its history, Pareto front, parallel coordinates, or the importance of its parameters."""
    name = study_name(study, field="STUDY")
    check_output(output, "OUTPUT")
    make_folder(output.parent, "OUTPUT")
    with connect() as mesh:
        found = mesh.studies.get(name)
        spec = StudySpec.from_json(json_format.MessageToDict(found.spec, preserving_proto_field_name=True))
        checked_kind(kind or "", chosen_objectives(spec, metric or ()))
        trials = [from_proto(spec, trial) for trial in mesh.studies.trials(name)]
    with writing(output, "OUTPUT"):
        drawn = plot_study(
            spec, trials, output, kind=kind or "", metrics=metric or (), title=name.removeprefix("studies/")
        )
    if as_json:
        print_json({"file": str(output), "study": name, "kind": drawn, "trials": len(trials)})
    else:
        console.print(f"{output}: {drawn} of {name}, {len(trials)} trials", highlight=False, soft_wrap=True)


def from_proto(spec: StudySpec, message: pb.Trial) -> Trial:
    """Converts a message to a trial, without what only the tuner needs."""
    domains = {one.name: one.domain for one in spec.space.parameters}
    return Trial(
        number=int(message.name.rpartition("/")[2]),
        parameters={
            name: _value(domains[name], value) for name, value in json_format.MessageToDict(message.parameters).items()
        },
        client_id=message.client_id,
        start_us=message.start_time.ToMicroseconds(),
        start_sequence=0,
        sequence=message.sequence,
        state=TrialState(pb.TrialState.Name(message.state).removeprefix("TRIAL_STATE_").lower()),
        metrics={metric.name: metric.value for metric in message.metrics},
    )


def _value(domain: Domain, value: Value) -> Value:
    """Returns a value with the type that it has in the space; all numbers of a message are floating-point numbers."""
    if isinstance(domain, Choices):
        return domain.choices[domain.choices.index(value)]
    return int(value) if isinstance(domain, IntegerRange) else value
