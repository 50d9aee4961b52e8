"""Directives to a training: in which step they are applied, what they change, and that they can be repeated."""

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import InvalidArgument
from deepseek.optim.momentum import momentum_of
from deepseek.steering.directive import Directive
from deepseek.steering.policy import Policy
from deepseek.training import CheckpointEvent, DirectiveEvent, StepEvent
from deepseek.training import checkpoint as checkpoints
from deepseek.training.events import WarningEvent
from tests.deepseek.training.directed import Given, Run, done, policy, rate
from tests.deepseek.training.ranks import check_ranks


def test_a_directive_is_applied_in_the_next_step() -> None:
    run = done({5: [rate(0.001)]})
    ack = run.acks["d"]
    assert (ack.applied_step, ack.action, ack.late, ack.error) == (6, "set_learning_rate", False, None)
    assert ack.old is not None
    assert ack.new is not None
    assert (ack.old.learning_rate, ack.new.learning_rate) == (0.01, 0.001)
    assert abs(ack.apply_us / 1e6 - time.time()) < 600
    steps = {event.step: event.learning_rate for event in run.events if isinstance(event, StepEvent)}
    assert (steps[4], steps[8]) == (0.01, 0.001)
    assert not torch.equal(run.weights, done({}).weights)


def test_a_directive_waits_for_its_step() -> None:
    late, early = done({0: [rate(0.001, apply_at_step=10)]}), done({9: [rate(0.001)]})
    assert (late.acks["d"].applied_step, late.acks["d"].late) == (10, False)
    assert torch.equal(late.weights, early.weights)


def test_a_step_that_is_past_means_the_next_one_and_the_answer_says_so() -> None:
    ack = done({8: [rate(0.001, apply_at_step=3)]}).acks["d"]
    assert (ack.applied_step, ack.late) == (9, True)


def test_a_directive_for_a_step_after_the_end_is_not_answered_here() -> None:
    assert done({3: [rate(0.001, apply_at_step=17)]}).acks == {}


def test_a_directive_that_has_expired_changes_nothing() -> None:
    now = time.time_ns() // 1000
    given = {3: [rate(0.001, expire_after_s=0.5, expire_us=now - 1)], 5: [rate(0.002, "e", expire_us=now + 10**9)]}
    acks = done(given).acks
    assert acks["d"].error is not None
    assert (acks["d"].error["code"], acks["d"].error["reason"]) == ("DEADLINE_EXCEEDED", "EXPIRED")
    assert (acks["d"].applied_step, acks["d"].new) == (0, None)
    assert acks["e"].applied_step == 6


def test_a_momentum_is_set_and_ends_the_policy() -> None:
    run = done({0: [policy("one_cycle")], 6: [Directive("m", "set_momentum", 0.5)]})
    assert run.acks["m"].new is not None
    assert run.acks["m"].new.momentum == 0.5
    assert momentum_of(run.trainer.optimizer) == 0.5
    assert not run.trainer.steering.has_policy


def test_a_momentum_for_an_optimizer_without_one_is_refused() -> None:
    run = done({2: [Directive("m", "set_momentum", 0.5)]}, optimizer="adagrad")
    assert run.acks["m"].error is not None
    assert run.acks["m"].error["reason"] == "NO_MOMENTUM"


def test_a_set_rate_ends_the_schedule_and_the_policy() -> None:
    run = done({6: [rate(0.005)]}, schedule="linear", policy="cosine")
    later = [event.learning_rate for event in run.events if isinstance(event, StepEvent) and event.step > 6]
    assert set(later) == {0.005}
    assert not run.trainer.steering.has_policy


def test_a_curve_begins_at_the_step_at_which_it_is_set() -> None:
    run = done({7: [policy("cosine")]})
    rates = {event.step: event.learning_rate for event in run.events if isinstance(event, StepEvent)}
    assert run.acks["p"].applied_step == 8
    assert rates[4] == 0.01
    assert 0 < rates[16] < rates[12] < rates[8] <= 0.01


def test_a_policy_that_is_set_decides_from_the_next_epoch_on() -> None:
    run = done({6: [policy("legacy_threshold")]})
    rates = {event.step: event.learning_rate for event in run.events if isinstance(event, StepEvent)}
    assert [rates[step] for step in (8, 12, 16)] == pytest.approx([0.01, 0.012, 0.0144])


@pytest.mark.parametrize(
    ("directive", "reason"),
    [
        (policy("nowhere"), "UNKNOWN_COMPONENT"),
        (policy("plateau", patience=0), "BAD_VALUE"),
        (policy("plateau", haste=1), "UNKNOWN_FIELD"),
    ],
)
def test_a_policy_that_cannot_be_made_is_answered_with_the_reason(directive: Directive, reason: str) -> None:
    run = done({2: [directive]})
    assert run.acks["p"].error is not None
    assert run.acks["p"].error["reason"] == reason
    assert torch.equal(run.weights, done({}).weights)


def test_a_checkpoint_is_answered_once_it_is_stored(tmp_path: Path) -> None:
    run = Run({5: [Directive("c", "checkpoint")]}, folder=tmp_path)
    run.fit()
    assert run.acks["c"].applied_step == 6
    kinds = [event for event in run.events if isinstance(event, CheckpointEvent | DirectiveEvent)]
    assert [type(event) for event in kinds[:2]] == [CheckpointEvent, DirectiveEvent]
    assert checkpoints.read(run.saved[6])["step"] == 6


def test_a_training_without_checkpoints_says_that_it_has_none() -> None:
    run = done({5: [Directive("c", "checkpoint"), Directive("r", "restore", {"step": 2})]})
    for name in ("c", "r"):
        error = run.acks[name].error
        assert error is not None
        assert error["reason"] == "CHECKPOINT_FAILED"


def test_a_training_stops_after_the_step_with_a_checkpoint(tmp_path: Path) -> None:
    run = Run({3: [Directive("s", "stop", apply_at_step=7)]}, folder=tmp_path)
    assert run.fit().stopped
    assert run.trainer.step == run.acks["s"].applied_step == 7
    assert list(run.saved) == [7]


def test_restoring_brings_back_weights_and_optimizer_but_not_the_step(tmp_path: Path) -> None:
    seen: dict[int, torch.Tensor] = {}
    run = Run(
        {
            3: [Directive("c", "checkpoint"), Directive("m", "set_momentum", 0.5)],
            9: [Directive("r", "restore", {"step": 4}), Directive("n", "no_op")],
        },
        folder=tmp_path,
    )

    def look() -> bool:
        seen[run.trainer.step] = run.weights.clone()
        return False

    run.fit(stop=look)
    assert run.acks["r"].applied_step == run.acks["n"].applied_step == 10
    assert torch.equal(seen[9], seen[4])
    assert run.trainer.step == 16
    state = run.trainer.state_dict()["optimizer"]["state"][0]["step"]
    assert float(state) == 4 + 16 - 9, "the optimizer counts on from the checkpoint"
    assert momentum_of(run.trainer.optimizer) == 0.5


def test_a_checkpoint_that_cannot_be_read_leaves_the_training_as_it_is(tmp_path: Path) -> None:
    run = Run({9: [Directive("r", "restore", {"step": 4})]}, folder=tmp_path)
    run.fit()
    error = run.acks["r"].error
    assert error is not None
    assert error["reason"] == "CHECKPOINT_FAILED"
    assert torch.equal(run.weights, done({}).weights)


ALL: Given = {
    2: [rate(0.02, "a"), Directive("b", "set_momentum", 0.8)],
    5: [Directive("c", "checkpoint")],
    7: [policy("legacy_threshold", "d")],
    9: [Directive("e", "restore", {"step": 6})],
    10: [policy("cosine", "f")],
    11: [Directive("h", "set_momentum", 0.7)],
    12: [policy("one_cycle", "i")],
    14: [rate(0.004, "g")],
}
RESUME_AT = 6


def repeated(run: Run) -> list[Directive]:
    """What a trainer passes on when the workers resume from the checkpoint at RESUME_AT."""
    given = {one.id: one for several in ALL.values() for one in several}
    acks = [ack for ack in run.acks.values() if ack.applied_step > RESUME_AT]
    return [replace(given[ack.directive_id], applied_step=ack.applied_step) for ack in acks]


def test_a_training_that_resumes_repeats_what_it_was_told(tmp_path: Path) -> None:
    whole = Run(ALL, folder=tmp_path)
    whole.fit()
    assert [ack.error for ack in whole.acks.values()] == [None] * 9
    resumed = Run({RESUME_AT: repeated(whole)}, folder=tmp_path)
    resumed.trainer.load(tmp_path / f"step-{RESUME_AT}")
    resumed.fit()
    assert resumed.acks == {}, "they have been answered"
    assert torch.equal(resumed.weights, whole.weights)


def test_what_cannot_be_repeated_is_warned_of_and_a_missing_checkpoint_ends_the_attempt(tmp_path: Path) -> None:
    run = done({3: [replace(policy("nowhere"), applied_step=4)]})
    (warning,) = [event.message for event in run.events if isinstance(event, WarningEvent)]
    assert "the directive 'p' could not be repeated in step 4: unknown policy 'nowhere'" in warning
    assert run.acks == {}
    run = Run({3: [Directive("r", "restore", {"step": 2}, applied_step=4)]}, folder=tmp_path)
    with pytest.raises(FileNotFoundError):
        run.fit()


def test_a_training_resumes_without_a_policy_that_is_no_longer_installed(tmp_path: Path) -> None:
    def refuse(name: str, params: Mapping[str, Any]) -> Policy:
        raise InvalidArgument("UNKNOWN_COMPONENT", f"unknown policy {name!r}")

    done({3: [policy("legacy_threshold")], 5: [Directive("c", "checkpoint")]}, folder=tmp_path)
    resumed = Run({}, folder=tmp_path, open_policy=refuse)
    resumed.trainer.load(tmp_path / "step-6")
    assert not resumed.fit().stopped
    assert not resumed.trainer.steering.has_policy
    (warning,) = [event.message for event in resumed.events if isinstance(event, WarningEvent)]
    assert "'legacy_threshold' can no longer be used" in warning


def train_on_ranks(folder: Path) -> None:
    whole = Run(ALL, folder=folder)
    whole.fit()
    rank = torch.distributed.get_rank()
    (folder / f"acks-{rank}.json").write_text(
        json.dumps([[ack.directive_id, ack.applied_step, ack.error] for ack in whole.acks.values()])
    )
    torch.distributed.barrier()
    given = {one.id: one for several in ALL.values() for one in several}
    acks = json.loads((folder / "acks-0.json").read_text())
    repeats = [replace(given[name], applied_step=step) for name, step, _ in acks if step > RESUME_AT]
    resumed = Run({RESUME_AT: repeats if rank == 0 else []}, folder=folder)
    resumed.trainer.load(folder / f"step-{RESUME_AT}")
    resumed.fit()
    assert torch.equal(resumed.weights, whole.weights)
    torch.save(whole.weights, folder / f"weights-{rank}")


def test_two_ranks_are_told_the_same_in_the_same_step(tmp_path: Path) -> None:
    check_ranks(2, train_on_ranks, tmp_path)
    acks = json.loads((tmp_path / "acks-0.json").read_text())
    applied = {name: step for name, step, error in acks if error is None}
    # A checkpoint is restored before a step, of which the gradients would be computed already.
    assert applied == {"a": 3, "b": 3, "c": 6, "d": 8, "e": 11, "f": 11, "h": 12, "i": 13, "g": 15}
    assert json.loads((tmp_path / "acks-1.json").read_text()) == []
    assert torch.equal(torch.load(tmp_path / "weights-0"), torch.load(tmp_path / "weights-1"))
