"""`deepseek federated start`: starts a federated run from a spec and options."""

from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated

import typer

from deepseek.cli.completion import BUDGET, DATASET_VERSION, MODEL
from deepseek.cli.federated_nodes import FederationName, short_member
from deepseek.cli.federated_rounds import outcome, run_document, show_rounds
from deepseek.cli.interrupts import when_interrupted
from deepseek.cli.output import AsJson, console, print_json
from deepseek.cli.privacy_options import PRIVACY_OPTIONS, change_privacy, chosen_privacy, merged, naming_options
from deepseek.cli.spec_files import read_spec
from deepseek.client import connect
from deepseek.client.names import series_id, version_name

_MODEL_FIELDS = ("dataset_version", "inputs", "target")
"""Fields of a run spec that show that a file describes only the model."""

_OPTIONS = {
    "parent": "FEDERATION",
    "spec.model.dataset_version": "--dataset",
    "spec.target_model": "--model",
    "spec.num_rounds": "--rounds",
    "spec.register_every": "--register-every",
    "spec.strategy.name": "--strategy",
    "spec.sampling": "--nodes, --rate",
    "spec.sampling.num_nodes": "--nodes",
    "spec.sampling.rate": "--rate",
    "spec.local_epochs": "--local-epochs",
    "spec.deadline_s": "--deadline-s",
    "spec.quorum": "--quorum",
    "spec.max_update_norm": "--max-update-norm",
    **PRIVACY_OPTIONS,
}
"""Options and arguments by the field of the request that they set."""


def start(
    federation: FederationName,
    spec: Annotated[
        Path,
        typer.Argument(
            help="JSON or TOML file with a FederatedRunSpec, or with a RunSpec as for `deepseek train`.",
            exists=True,
            dir_okay=False,
        ),
    ],
    *,
    dataset: Annotated[
        str, typer.Option(help="Reference data of the coordinator.", autocompletion=DATASET_VERSION)
    ] = "",
    model: Annotated[str, typer.Option(help="Model that gets a version per round.", autocompletion=MODEL)] = "",
    rounds: Annotated[int | None, typer.Option(min=1, help="Number of rounds.")] = None,
    register_every: Annotated[
        int | None, typer.Option(min=1, help="Rounds between two model versions; the last round always gets one.")
    ] = None,
    strategy: Annotated[
        str, typer.Option(help="fedavg, fedprox, fedadam, trimmed_mean or median; overrides the one in the spec.")
    ] = "",
    num_nodes: Annotated[int | None, typer.Option("--nodes", min=1, help="Ask this number of nodes per round.")] = None,
    rate: Annotated[
        float | None, typer.Option(help="Ask each node with this probability per round (Poisson sampling).")
    ] = None,
    local_epochs: Annotated[int | None, typer.Option(min=1, help="Passes of a node over its data per round.")] = None,
    deadline_s: Annotated[float | None, typer.Option(help="Seconds that nodes have for a round.")] = None,
    quorum: Annotated[
        int | None,
        typer.Option(
            min=0, help="Number of updates that a round needs; with --unit client, of nodes that must be online."
        ),
    ] = None,
    max_update_norm: Annotated[
        float | None,
        typer.Option(help="Refuse updates with a larger norm; default without privacy: 10 times the round's median."),
    ] = None,
    unit: Annotated[str, typer.Option(help="What privacy protects: client or example.")] = "",
    clip_norm: Annotated[float | None, typer.Option(help="Bound on the norm of an update or gradient.")] = None,
    noise: Annotated[float | None, typer.Option(help="Noise multiplier.")] = None,
    epsilon: Annotated[float | None, typer.Option(help="Epsilon that the run may spend; determines the noise.")] = None,
    delta: Annotated[
        float | None, typer.Option(help="Delta of the guarantee; it must be that of the budget, which is the default.")
    ] = None,
    example_rate: Annotated[
        float | None, typer.Option(help="With --unit example: probability that a training step uses an example.")
    ] = None,
    budget: Annotated[str, typer.Option(help="Privacy budget that is debited.", autocompletion=BUDGET)] = "",
    detach: Annotated[bool, typer.Option("--detach", help="Return at once; the run continues in the mesh.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start a federated run, and show its rounds. Options override the spec.

    The run continues after Ctrl-C: `deepseek federated watch` shows it again, `deepseek federated stop` ends it.
    """
    given = read_spec(spec)
    if "model" not in given or any(field in given for field in _MODEL_FIELDS):
        given = {"model": given}
    if dataset:
        name = version_name(dataset, "datasets", field="--dataset")
        given["model"] = merged(given, "model", {"dataset_version": name})
    if strategy:
        given["strategy"] = {"name": strategy}
    sampling = {"num_nodes": num_nodes, "rate": rate}
    if chosen_sampling := {name: value for name, value in sampling.items() if value is not None}:
        given["sampling"] = chosen_sampling  # both together are refused, as in a spec
    members = {
        "target_model": f"models/{series_id(model, 'models', field='--model')}" if model else None,
        "num_rounds": rounds,
        "register_every": register_every,
        "local_epochs": local_epochs,
        "deadline_s": deadline_s,
        "quorum": quorum,
        "max_update_norm": max_update_norm,
    }
    given |= {name: value for name, value in members.items() if value is not None}
    chosen = chosen_privacy(
        clip_norm=clip_norm, noise=noise, epsilon=epsilon, delta=delta, example_rate=example_rate, budget=budget
    )
    change_privacy(given, {"unit": f"UNIT_{unit.upper()}", **chosen} if unit else chosen)
    with connect() as mesh:
        with naming_options(_OPTIONS):
            run = mesh.federated.start(federation, given)
        console.print(f"{run.name} started", highlight=False)
        if not detach:
            with leaving(run.name):
                show_rounds(mesh.federated.watch(run.name), run.spec.num_rounds)
                run = mesh.federated.wait(run.name)
    if as_json:
        print_json(run_document(run))
    elif not detach:
        console.print(f"{run.name}: {outcome(run)}", highlight=False)


def leaving(run: str) -> AbstractContextManager[None]:
    """If Ctrl-C ends the command, shows that the run continues, and how to watch or stop it."""
    short = short_member(run)
    return when_interrupted(
        f"stopped watching; {run} continues\n  watch it: deepseek federated watch {short}\n"
        f"  stop it:  deepseek federated stop {short}"
    )
