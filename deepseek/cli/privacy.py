"""`deepseek privacy`: creates, lists, shows and verifies the privacy budgets of data sets."""

import math
from collections.abc import Iterable
from enum import StrEnum
from typing import Annotated, Any

import typer

from deepseek.cli.completion import BUDGET
from deepseek.cli.guarantees import unit_word
from deepseek.cli.output import AsJson, bold, console, print_json, print_table
from deepseek.client import connect
from protos.privacy.v1 import privacy_pb2

app = typer.Typer(
    help="Limit how much the results of all runs reveal about a data set, with differential privacy.",
    no_args_is_help=True,
)

_PROTECTED = {
    "client": "one client of the federation, with all of its data",
    "example": "one example of the data set",
}


class Unit(StrEnum):
    """What a budget protects."""

    CLIENT = "client"
    EXAMPLE = "example"


_UNITS = {Unit.CLIENT: privacy_pb2.UNIT_CLIENT, Unit.EXAMPLE: privacy_pb2.UNIT_EXAMPLE}

Budget = Annotated[str, typer.Argument(help="Name of a budget, e.g. clinics.", autocompletion=BUDGET)]


@app.command()
def create(
    name: Annotated[str, typer.Argument(help="Name of the new budget, e.g. clinics.")],
    data: Annotated[str, typer.Argument(help="Name of the protected data, e.g. federations/clinics or datasets/d.")],
    unit: Annotated[Unit, typer.Option(help="What is protected: a client with all of its data, or one example.")],
    epsilon: Annotated[float, typer.Option(help="Limit of the privacy loss of all releases together; e.g. 3.")],
    delta: Annotated[
        float,
        typer.Option(help="Probability with which the limit may not hold; well below 1 / number of units in the data."),
    ],
    as_json: AsJson = False,
) -> None:
    """Create a budget. Its limits cannot be changed later, and a data set has one budget for each unit."""
    with connect() as mesh:
        created = mesh.budgets.create(name, dataset=data, unit=_UNITS[unit], epsilon=epsilon, delta=delta)
    if as_json:
        print_json(_budget(created))
    else:
        console.print(f"{_short(created)}: {_limit(created)} per {unit}, for {created.dataset}", highlight=False)


@app.command("list")
def list_budgets(as_json: AsJson = False) -> None:
    """List all budgets, with what is spent and left of each."""
    with connect() as mesh:
        budgets = list(mesh.budgets.list())
    if as_json:
        print_json([_budget(one) for one in budgets])
        return
    print_table(
        ["budget", "data", "unit", "epsilon", "spent", "left", "delta", "debits"],
        [
            (
                _short(one),
                one.dataset,
                unit_word(one.unit),
                f"{one.epsilon:g}",
                f"{one.epsilon_spent:.4g}",
                f"{one.epsilon_left:.4g}",
                f"{one.delta:g}",
                one.num_debits,
            )
            for one in budgets
        ],
        none="there are no budgets; create one with `deepseek privacy create`",
    )


@app.command()
def show(budget: Budget, as_json: AsJson = False) -> None:
    """Show a budget: what is spent and left, the releases of each run, and what the figures mean."""
    with connect() as mesh:
        found = mesh.budgets.get(budget)
        debits = list(mesh.budgets.debits(budget))[::-1]
    runs = _runs(debits)
    if as_json:
        print_json(_budget(found) | {"runs": runs, "debits": list(map(_debit, debits))})
        return
    console.print(bold(_short(found)))
    _print_line("data", found.dataset)
    _print_line("protects", _PROTECTED[unit_word(found.unit)])
    _print_line("limit", _limit(found))
    share = found.epsilon_spent / found.epsilon
    _print_line("spent", f"epsilon {found.epsilon_spent:.4g} ({share:.0%}), {found.epsilon_left:.4g} left")
    console.print()
    print_table(
        ["run", "rounds", "releases", "noise multiplier", "sampling rate", "epsilon spent so far"],
        [
            (
                run["run"],
                run["rounds"],
                run["releases"],
                ", ".join(f"{value:g}" for value in run["noise_multipliers"]),
                ", ".join(f"{value:g}" for value in run["sampling_rates"]),
                f"{run['epsilon_spent']:.4g}",
            )
            for run in runs
        ],
        none="nothing has been released yet",
    )
    console.print()
    for line in _meaning(found):
        console.print(line, highlight=False)


@app.command()
def preview(
    budget: Budget,
    noise: Annotated[float, typer.Option(help="Noise multiplier of each release.")],
    rate: Annotated[float, typer.Option(help="Probability with which a unit is part of a release.")] = 1.0,
    count: Annotated[int, typer.Option(min=1, help="Number of releases, e.g. rounds or training steps.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Show what noisy releases would cost, and how many of them fit into a budget. Nothing is debited."""
    release = privacy_pb2.Release(noise_multiplier=noise, sampling_rate=rate, count=count)
    with connect() as mesh:
        found, limit = mesh.budgets.preview(budget, release), mesh.budgets.get(budget)
    if as_json:
        after = found.epsilon_after if math.isfinite(found.epsilon_after) else None
        figures = {"epsilon_after": after, "fits": found.fits, "max_count": found.max_count}
        print_json({"budget": limit.name, "epsilon_spent": found.epsilon_spent} | figures)
        return
    console.print(
        f"{_short(limit)}: {count} releases raise epsilon from {found.epsilon_spent:.4g} to {found.epsilon_after:.4g}; "
        f"the limit is {limit.epsilon:g}",
        highlight=False,
    )
    console.print(f"  {found.max_count} such releases fit", highlight=False)


@app.command()
def verify(budget: Budget, as_json: AsJson = False) -> None:
    """Check that no debit of a budget was changed, removed or added, and compute the privacy loss again.

    Exit with status 1 and name the first debit that is wrong if the ledger was tampered with.
    """
    with connect() as mesh:
        verified = mesh.budgets.verify(budget)
    found = verified.budget
    if as_json:
        figures = {
            "epsilon_recomputed": verified.epsilon_recomputed,
            "audited_debits": verified.num_audited_debits,
        }
        print_json(_budget(found) | figures)
        return
    console.print(f"{_short(found)}: {found.num_debits} debits are unchanged", highlight=False)
    console.print(
        f"  epsilon {found.epsilon_spent:.6g} spent, {verified.epsilon_recomputed:.6g} when computed again; "
        f"the audit log records {verified.num_audited_debits} debits",
        highlight=False,
    )


def _meaning(found: privacy_pb2.Budget) -> list[str]:
    unit = unit_word(found.unit)
    factor = math.exp(min(found.epsilon_spent, 700))
    return [
        "How much a person who sees all of these releases can learn:",
        f"  epsilon    adding or removing one {unit} changes the probability of any result by a factor of at most "
        f"{factor:.3g}",
        f"  delta      the probability with which this factor may not hold ({found.delta:g})",
        f"  adjacency  two data sets are compared that differ in one {unit}, which is added or removed",
        "  costs      the loss grows more slowly than the number of releases; see docs/privacy.md",
    ]


def _runs(debits: Iterable[privacy_pb2.Debit]) -> list[dict[str, Any]]:
    """Returns the releases of each run, in the order in which the runs began."""
    found: dict[str, dict[str, Any]] = {}
    for debit in debits:
        new = {"run": debit.run, "rounds": 0, "releases": 0, "noise_multipliers": [], "sampling_rates": []}
        run = found.setdefault(debit.run, new)
        run["rounds"] += 1
        run["releases"] += debit.release.count
        for name, value in (
            ("noise_multipliers", debit.release.noise_multiplier),
            ("sampling_rates", debit.release.sampling_rate),
        ):
            if value not in run[name]:
                run[name].append(value)
        run["epsilon_spent"] = debit.epsilon_spent
    return list(found.values())


def _budget(found: privacy_pb2.Budget) -> dict[str, Any]:
    return {
        "budget": found.name,
        "dataset": found.dataset,
        "unit": unit_word(found.unit),
        "epsilon": found.epsilon,
        "delta": found.delta,
        "epsilon_spent": found.epsilon_spent,
        "epsilon_left": found.epsilon_left,
        "num_debits": found.num_debits,
        "head_sha256": found.head_sha256,
        "create_time": found.create_time.ToJsonString(),
    }


def _debit(found: privacy_pb2.Debit) -> dict[str, Any]:
    return {
        "debit": found.name,
        "run": found.run,
        "round": found.round,
        "noise_multiplier": found.release.noise_multiplier,
        "sampling_rate": found.release.sampling_rate,
        "count": found.release.count,
        "epsilon_spent": found.epsilon_spent,
        "sealed_sha256": found.sealed_sha256,
        "sha256": found.sha256,
        "create_time": found.create_time.ToJsonString(),
    }


def _short(found: privacy_pb2.Budget) -> str:
    return found.name.removeprefix("budgets/")


def _limit(found: privacy_pb2.Budget) -> str:
    return f"epsilon {found.epsilon:g} at delta {found.delta:g}"


def _print_line(name: str, text: str) -> None:
    console.print(f"  {name:<10} {text}", highlight=False)
