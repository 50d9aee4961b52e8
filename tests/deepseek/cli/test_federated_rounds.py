"""How rounds are shown: as cells, as lines and as JSON."""

import io

import pytest
from rich.console import Console

from deepseek.cli import federated_rounds
from deepseek.cli.federated_rounds import (
    COLUMNS,
    cells,
    document,
    last_rounds,
    line,
    outcome,
    refused_rows,
    show_rounds,
    used_columns,
)
from protos.federated.v1 import federated_pb2 as pb
from protos.job.v1 import job_pb2
from protos.trainer.v1 import trainer_pb2

_ERASE_LINE = "\x1b[2K"


class _Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


METRICS = [trainer_pb2.MetricValue(name=name, value=0.5) for name in ("loss", "accuracy", "train_loss")]
PUBLIC = pb.Round(
    round=3,
    state=pb.ROUND_STATE_RELEASED,
    attempt=1,
    num_asked=4,
    num_counted=3,
    refusals=[pb.Refusal(node="federations/f/nodes/n", reason="NOT_FINITE", message="the update has NaN")],
    metrics=METRICS,
    model_version="models/m/versions/3",
    round_s=1.25,
)
SECRET = pb.Round(
    round=1,
    state=pb.ROUND_STATE_RELEASED,
    attempt=2,
    metrics=METRICS[:2],
    epsilon_spent=1.5,
    epsilon_left=0,
    model_version="models/m/versions/1",
)


def test_a_round_is_one_line() -> None:
    assert line(PUBLIC) == (
        "round 3: 3/4 counted, refused 1 NOT_FINITE (n: the update has NaN), loss 0.5000, accuracy 0.5000, m:3, 1.2 s"
    )
    assert line(SECRET) == (
        "round 1 (attempt 2): cohort secret, loss 0.5000, accuracy 0.5000, epsilon 1.500 spent, 0.000 left, m:1"
    )


def test_a_number_that_is_secret_is_not_shown_as_none() -> None:
    asked = pb.Round(round=1, attempt=1, state=pb.ROUND_STATE_PLANNED, num_asked=2)
    assert cells(asked)[1] == "-/2"
    asked.state = pb.ROUND_STATE_RELEASED
    assert cells(asked)[1] == "secret/2"


def test_the_outcome_names_the_model_as_other_commands_accept_it() -> None:
    run = pb.Run(last_round=PUBLIC)
    assert outcome(run) == "m:3: loss 0.5000, accuracy 0.5000"
    run.last_round.model_version = ""
    run.last_round.metrics.reverse()  # the loss is first in any case
    assert outcome(run) == "loss 0.5000, accuracy 0.5000"


def test_the_wait_before_the_first_round_is_explained(capsys: pytest.CaptureFixture[str]) -> None:
    running = pb.RunEvent(state=pb.StateEvent(state=job_pb2.JOB_STATE_RUNNING))
    show_rounds([running, pb.RunEvent(round=pb.RoundEvent(round=PUBLIC))], 3)
    shown = capsys.readouterr().err.splitlines()
    assert shown == ["preparing the model, and asking the nodes whether they are ready", line(PUBLIC)]


@pytest.mark.parametrize("keep", [True, False])
def test_the_table_of_a_terminal_stays_if_it_is_not_printed_again(monkeypatch: pytest.MonkeyPatch, keep: bool) -> None:
    screen = _Screen()
    monkeypatch.setattr(federated_rounds, "error_console", Console(file=screen, force_terminal=True, width=100))
    show_rounds([pb.RunEvent(round=pb.RoundEvent(round=PUBLIC))], 3, keep=keep)
    after = screen.getvalue().rpartition("1 of 3 rounds")[2]
    assert (_ERASE_LINE in after) is not keep


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        (pb.ROUND_STATE_PLANNED, "round 1 planned: "),
        (pb.ROUND_STATE_DEBITED, "round 1 debited: "),
        (pb.ROUND_STATE_FAILED, "round 1 failed: cohort secret"),
    ],
)
def test_a_round_that_is_under_way_shows_its_state(state: pb.RoundState, shown: str) -> None:
    assert line(pb.Round(round=1, attempt=1, state=state)) == shown


def test_columns_without_content_are_left_out() -> None:
    assert [COLUMNS[i] for i in used_columns([cells(PUBLIC)])] == [
        "round", "counted", "refused", "figures", "model", "time"
    ]  # fmt: skip
    assert "epsilon" in [COLUMNS[i] for i in used_columns([cells(SECRET)])]


def test_updates_that_were_not_counted_name_their_node_and_why() -> None:
    assert refused_rows([SECRET, PUBLIC]) == [("3", "n", "NOT_FINITE", "the update has NaN")]


def test_what_is_secret_is_null_in_json() -> None:
    assert document(SECRET)["num_asked"] is None
    assert document(PUBLIC)["num_counted"] == 3
    assert document(PUBLIC)["metrics"]["train_loss"] == 0.5
    assert document(SECRET)["epsilon_left"] == 0


def test_the_last_event_of_a_round_counts() -> None:
    planned = pb.Round(round=3, attempt=1, state=pb.ROUND_STATE_PLANNED)
    events = [pb.RunEvent(round=pb.RoundEvent(round=one)) for one in (SECRET, planned, PUBLIC)]
    assert last_rounds([*events, pb.RunEvent(state=pb.StateEvent())]) == [SECRET, PUBLIC]
