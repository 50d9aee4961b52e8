"""`deepseek federated`: creates federations, registers and joins nodes, and starts, watches and stops runs."""

from pathlib import Path
from typing import Annotated, Any

import typer
from google.protobuf import json_format

from common.errors import FailedPrecondition
from deepseek.cli.completion import FEDERATED_RUN, FEDERATION
from deepseek.cli.federated_demo import demo
from deepseek.cli.federated_join import join
from deepseek.cli.federated_nodes import FederationName, keygen, last_id, nodes, register, remove, short_member
from deepseek.cli.federated_rounds import (
    COLUMNS,
    cells,
    document,
    last_rounds,
    outcome,
    refused_rows,
    run_document,
    show_rounds,
    state,
    used_columns,
)
from deepseek.cli.federated_start import leaving, start
from deepseek.cli.output import AsJson, bold, console, print_json, print_table
from deepseek.client import connect
from deepseek.client.names import federated_run_name
from protos.federated.v1 import federated_pb2 as pb

app = typer.Typer(
    help="Train a model with nodes that keep their data: federations, nodes and federated runs.", no_args_is_help=True
)

RunName = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="Name of the run, FEDERATION/ID; see `deepseek federated list FEDERATION`.",
        autocompletion=FEDERATED_RUN,
    ),
]


@app.command()
def create(
    federation: Annotated[str, typer.Argument(metavar="FEDERATION", help="Name of the new federation.")],
    description: Annotated[str, typer.Option(help="Free text for people.")] = "",
    as_json: AsJson = False,
) -> None:
    """Create a federation. Then register its nodes."""
    with connect() as mesh:
        made = mesh.federated.create(federation, description=description)
    if as_json:
        print_json(_federation(made))
        return
    console.print(f"created {made.name}; register its nodes with", bold("deepseek federated register"))


for _command in (demo, nodes, keygen, register, join, remove, start):
    app.command()(_command)


@app.command()
def delete(federation: FederationName, as_json: AsJson = False) -> None:
    """Delete a federation with its nodes and the history of its runs. Model versions and debits are kept."""
    with connect() as mesh:
        name = mesh.federated.get(federation).name
        mesh.federated.delete(federation)
    if as_json:
        print_json({"deleted": name})
    else:
        console.print(f"deleted {name}")


@app.command()
def watch(run: RunName, as_json: AsJson = False) -> None:
    """Show the rounds of a run until it ends. The run continues after Ctrl-C."""
    name = federated_run_name(run, field="RUN")
    with connect() as mesh:
        found = mesh.federated.run(name)
        with leaving(name):
            events = show_rounds(mesh.federated.watch(name), found.spec.num_rounds, keep=False)  # printed below
            found = mesh.federated.wait(name)
    rounds = last_rounds(events)
    if as_json:
        print_json({**run_document(found), "rounds": [document(one) for one in rounds]})
        return
    _print_rounds(rounds)
    console.print(f"{found.name}: {outcome(found)}", highlight=False)


@app.command()
def stop(run: RunName, as_json: AsJson = False) -> None:
    """Stop a run. The models of its released rounds are kept. A round that has no result yet is not debited."""
    with connect() as mesh:
        found = mesh.federated.stop(federated_run_name(run, field="RUN"))
    if as_json:
        print_json(run_document(found))
    else:
        console.print(f"{found.name}: {state(found)}", highlight=False)


@app.command("list")
def list_(
    federation: Annotated[
        str, typer.Argument(metavar="[FEDERATION]", help="List the runs of this federation.", autocompletion=FEDERATION)
    ] = "",
    as_json: AsJson = False,
) -> None:
    """List the federations or, with FEDERATION, its runs, newest first."""
    with connect() as mesh:
        federations = [] if federation else list(mesh.federated.list())
        runs = list(mesh.federated.runs(federation)) if federation else []
    if as_json:
        print_json([run_document(one) for one in runs] if federation else [_federation(one) for one in federations])
    elif federation:
        rows = [(short_member(one.name), state(one), _progress(one), outcome(one)) for one in runs]
        print_table(["run", "state", "rounds", "figures"], rows, none=f"{federation} has no runs")
    else:
        named = [(last_id(one.name), one.num_nodes, one.description) for one in federations]
        none = "there are no federations; create one with `deepseek federated create`"
        print_table(["federation", "nodes", "description"], named, none=none)


@app.command()
def show(run: RunName, as_json: AsJson = False) -> None:
    """Show the state, the rounds and the spec of a run."""
    name = federated_run_name(run, field="RUN")
    with connect() as mesh:
        found = mesh.federated.run(name)
        rounds = last_rounds(mesh.federated.history(name))
    spec = json_format.MessageToDict(found.spec, preserving_proto_field_name=True)
    if as_json:
        print_json({**run_document(found), "rounds": [document(one) for one in rounds], "spec": spec})
        return
    row = (short_member(found.name), state(found), _progress(found), outcome(found))
    print_table(["run", "state", "rounds", "figures"], [row])
    _print_rounds(rounds)
    if found.HasField("privacy"):
        console.print(_privacy_text(found.privacy), highlight=False)
    print(json_format.MessageToJson(found.spec, preserving_proto_field_name=True))


@app.command()
def model(
    run: RunName,
    round_number: Annotated[int, typer.Option("--round", min=0, help="Number of the round; 0 is the newest.")] = 0,
    output: Annotated[Path | None, typer.Option(help="File for the parameters, as safetensors.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the model that a round has released, and save its parameters with --output."""
    name = federated_run_name(run, field="RUN")
    if output and output.exists():
        message = f"{output} exists; choose another path with --output"
        raise FailedPrecondition("OUTPUT_EXISTS", message, field="--output")
    with connect() as mesh:
        found = mesh.federated.model(name, round=round_number)
        if output:
            mesh.artifacts.fetch(found.arrays.sha256, output)
    answer = {
        "model_version": found.model_version,
        "round": document(found.round),
        "sha256": found.arrays.sha256,
        "size_bytes": found.arrays.size_bytes,
        "file": str(output) if output else None,
    }
    if as_json:
        print_json(answer)
        return
    _print_rounds([found.round])
    size = f"{found.arrays.size_bytes} bytes, sha256 {found.arrays.sha256}"
    console.print(f"{output}: {size}" if output else f"{size}; save them with --output FILE", highlight=False)


def _print_rounds(rounds: list[pb.Round]) -> None:
    rows = [cells(one) for one in rounds]
    used = used_columns(rows)
    print_table([COLUMNS[i] for i in used], [[row[i] for i in used] for row in rows], none="no rounds yet")
    if refused := refused_rows(rounds):
        console.print("\nupdates that were not counted:")
        print_table(["round", "node", "reason", "message"], refused)


def _privacy_text(privacy: pb.RunPrivacy) -> str:
    release, guarantee = privacy.release, privacy.guarantee
    text = f"noise multiplier {release.noise_multiplier:.4g}, rate {release.sampling_rate:g}, {privacy.budget}"
    if privacy.HasField("guarantee"):
        text = f"epsilon {guarantee.epsilon:.4g} at delta {guarantee.delta:g}; {text}"
    return f"{text}: {privacy.epsilon_left:.4g} left"


def _progress(run: pb.Run) -> str:
    return f"{run.num_released}/{run.spec.num_rounds}"


def _federation(one: pb.Federation) -> dict[str, Any]:
    return {"federation": one.name, "description": one.description, "num_nodes": one.num_nodes}
