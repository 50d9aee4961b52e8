"""The rounds of a federated run as a table: live on a terminal, otherwise one line per round."""

from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf import json_format
from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from deepseek.cli.output import error_console
from deepseek.client.names import short_name
from deepseek.progress import is_watched
from deepseek.terminal import visible
from protos.federated.v1 import federated_pb2 as pb
from protos.job.v1 import job_pb2

COLUMNS = ("round", "counted", "refused", "figures", "epsilon", "left", "model", "time")
_SHOWN_ROUNDS = 30
"""Number of rounds in the live table; a table that is longer than the terminal cannot be redrawn."""


def cells(one: pb.Round) -> list[str]:
    """Returns the cells of a round, in the order of COLUMNS."""
    attempt = f" (attempt {one.attempt})" if one.attempt > 1 else ""
    state = "" if one.state == pb.ROUND_STATE_RELEASED else f" {pb.RoundState.Name(one.state)[12:].lower()}"
    # While nodes are asked, it is not known yet. With example-level privacy, the round is debited before that.
    unknown = "" if one.state in (pb.ROUND_STATE_PLANNED, pb.ROUND_STATE_DEBITED) else "secret"
    if one.HasField("num_asked"):
        counted = f"{one.num_counted if one.HasField('num_counted') else unknown or '-'}/{one.num_asked}"
    else:
        counted = unknown
    return [
        f"{one.round}{attempt}{state}",
        counted,
        _refusals(one),
        figures_text(one),
        f"{one.epsilon_spent:.3f}" if one.HasField("epsilon_spent") else "",
        f"{one.epsilon_left:.3f}" if one.HasField("epsilon_left") else "",
        _short_version(one),
        f"{one.round_s:.1f} s" if one.round_s else "",
    ]


def figures_text(one: pb.Round) -> str:
    """Returns the figures of a round's model on the reference data, the loss first."""
    shown = sorted(
        (m for m in one.metrics if not m.name.startswith("train_")), key=lambda m: (m.name != "loss", m.name)
    )
    return ", ".join(f"{m.name} {m.value:.4f}" for m in shown)


def line(one: pb.Round) -> str:
    """Returns a round as one line, e.g. `round 3: 4/4 counted, loss 0.2130, accuracy 0.9310`."""
    _, counted, refused, figures, epsilon, left, model, seconds = cells(one)
    parts = [
        "cohort secret" if counted == "secret" else counted and f"{counted} counted",
        f"refused {refused} ({_first_refusal(one.refusals[0])})" if refused else "",
        figures,
        f"epsilon {epsilon} spent, {left} left" if epsilon else "",
        model,
        seconds,
    ]
    return f"round {cells(one)[0]}: {', '.join(part for part in parts if part)}"


def show_rounds(events: Iterable[pb.RunEvent], num_rounds: int, *, keep: bool = True) -> list[pb.RunEvent]:
    """Shows a run's events until the run ends, and returns the events.

    Args:
        events: Events of the run, as they occur.
        num_rounds: Number of rounds of the run.
        keep: Whether the table stays on the terminal after the run has ended.
    """
    seen: list[pb.RunEvent] = []
    if is_watched(error_console):
        rounds: dict[int, pb.Round] = {}
        with Live(console=error_console, transient=not keep, auto_refresh=False) as live:
            for event in events:
                seen.append(event)
                if event.HasField("round"):
                    rounds[event.round.round.round] = event.round.round
                    live.update(_live(list(rounds.values()), num_rounds), refresh=True)
                else:
                    _tell(event)
        return seen
    for event in events:
        seen.append(event)
        if event.HasField("round") and event.round.round.state in (pb.ROUND_STATE_RELEASED, pb.ROUND_STATE_FAILED):
            error_console.print(line(event.round.round), highlight=False, soft_wrap=True)
        else:
            _tell(event)
    return seen


def document(one: pb.Round) -> dict[str, Any]:
    """Returns a round as a JSON object."""
    return {
        "round": one.round,
        "state": pb.RoundState.Name(one.state).removeprefix("ROUND_STATE_"),
        "attempt": one.attempt,
        "num_asked": one.num_asked if one.HasField("num_asked") else None,
        "num_counted": one.num_counted if one.HasField("num_counted") else None,
        "refusals": [{"node": r.node, "reason": r.reason, "message": r.message} for r in one.refusals],
        "metrics": {m.name: m.value for m in one.metrics},
        "epsilon_spent": one.epsilon_spent if one.HasField("epsilon_spent") else None,
        "epsilon_left": one.epsilon_left if one.HasField("epsilon_left") else None,
        "model_version": one.model_version,
        "round_s": one.round_s,
    }


def last_rounds(events: Iterable[pb.RunEvent]) -> list[pb.Round]:
    """Returns the latest state of each round, in order."""
    rounds = {event.round.round.round: event.round.round for event in events if event.HasField("round")}
    return [rounds[number] for number in sorted(rounds)]


def used_columns(rows: Sequence[Sequence[str]]) -> list[int]:
    """Returns the numbers of the columns that are not empty in every row."""
    return [i for i in range(len(COLUMNS)) if i == 0 or any(row[i] for row in rows)]


def _tell(event: pb.RunEvent) -> None:
    if event.HasField("warning"):
        error_console.print(f"warning: {event.warning.message}", style="bold yellow", soft_wrap=True)
    elif event.HasField("attempt") and event.attempt.attempt > 1:
        text = f"the coordinator continues with round {event.attempt.round}"
        error_console.print(text, highlight=False, soft_wrap=True)
    elif event.HasField("state") and event.state.state == job_pb2.JOB_STATE_RUNNING:
        error_console.print("preparing the model, and asking the nodes whether they are ready", highlight=False)


def _live(rounds: list[pb.Round], num_rounds: int) -> Group:
    rows = [cells(one) for one in rounds[-_SHOWN_ROUNDS:]]
    table = Table(box=None, header_style="bold", pad_edge=False)
    used = used_columns(rows)
    for i in used:
        table.add_column(COLUMNS[i], no_wrap=i != 3)
    for row in rows:
        table.add_row(*(Text(visible(row[i])) for i in used))
    num_released = sum(one.state == pb.ROUND_STATE_RELEASED for one in rounds)
    return Group(table, Text(f"{num_released} of {num_rounds} rounds"))


def _short_version(one: pb.Round) -> str:
    return short_name(one.model_version) if one.model_version else ""


def _refusals(one: pb.Round) -> str:
    reasons = [refusal.reason for refusal in one.refusals]
    return ", ".join(f"{reasons.count(reason)} {reason}" for reason in dict.fromkeys(reasons))


def _first_refusal(one: pb.Refusal) -> str:
    return f"{one.node.rpartition('/')[2]}: {one.message[:200]}"


def refused_rows(rounds: Iterable[pb.Round]) -> list[tuple[str, str, str, str]]:
    """Returns the updates that were not counted, with the round, the node, the reason and the message of each."""
    return [
        (str(one.round), refusal.node.rpartition("/")[2], refusal.reason, refusal.message)
        for one in rounds
        for refusal in one.refusals
    ]


def outcome(run: pb.Run) -> str:
    """Returns a run's error message or the figures of its last round; if it has neither, the message of its job."""
    if run.job.HasField("error"):
        return str(run.job.error.message.partition("\n")[0])
    if not run.HasField("last_round"):
        return str(run.job.message)
    last = run.last_round
    epsilon = f", epsilon {last.epsilon_spent:.3f}" if last.HasField("epsilon_spent") else ""
    return f"{_short_version(last)}: {figures_text(last)}{epsilon}".removeprefix(": ")


def state(run: pb.Run) -> str:
    """Returns the state of a run, e.g. `RUNNING`."""
    return job_pb2.JobState.Name(run.job.state).removeprefix("JOB_STATE_")


def run_document(run: pb.Run) -> dict[str, Any]:
    """Returns a run as a JSON object."""
    return {
        "run": run.name,
        "state": state(run),
        "message": run.job.message,
        "error": json_format.MessageToDict(run.job.error) if run.job.HasField("error") else None,
        "num_rounds": run.spec.num_rounds,
        "num_released": run.num_released,
        "last_round": document(run.last_round) if run.HasField("last_round") else None,
        "privacy": (
            json_format.MessageToDict(run.privacy, preserving_proto_field_name=True)
            if run.HasField("privacy")
            else None
        ),
    }
