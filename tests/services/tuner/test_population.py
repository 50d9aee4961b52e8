"""Population-based training by the job that runs a study, with a trainer that the test advances."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from common.database import MAX_PAGE_SIZE
from common.errors import FailedPrecondition, MeshError, ResourceExhausted
from common.jobs import JobState
from deepseek.search.trials import Exploit, Trial
from services.tuner.population import Population
from services.tuner.ports import Action, Evaluation, Finished, Restore, SetValue
from services.tuner.run_trials import set_exploit
from services.tuner.studies import StudyService
from services.tuner.study import Measurement
from tests.harness.processes import wait_until
from tests.services.tuner.job_runner import STUDY, TENANT, Tuner
from tests.services.tuner.scripted_trainer import ScriptedTrainer
from tests.services.tuner.specs import RUN_STUDY_SPEC

PARAMETERS = [
    RUN_STUDY_SPEC["parameters"][0],
    {"name": "momentum", "float_range": {"low": 0.1, "high": 0.99}},
]
FIELDS = [{"parameter": "momentum", "field": "optimizer.params.momentum"}]
RUN: dict[str, Any] = {"optimizer": {"name": "sgd"}, "schedule": {"name": "constant"}}

_decided: set[tuple[StudyService, int, int]] = set()


@pytest.fixture(autouse=True)
def noted(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Notes when a population has decided about an epoch, which is after its measurement is visible."""
    measured = Population.measured

    def note(self: Population, number: int, epoch: int, value: float, num_epochs: int) -> None:
        measured(self, number, epoch, value, num_epochs)
        _decided.add((self._studies, number, epoch))

    monkeypatch.setattr(Population, "measured", note)
    yield
    _decided.clear()


def start(tuner: Tuner, *, run: Mapping[str, Any] = MappingProxyType({}), **params: Any) -> None:
    """Starts a population of four, whose runs all train."""
    settings = {"population": 4, "interval": 2, "quantile": 0.25, "factors": [0.5, 2.0], **params}
    tuner.create(parameters=PARAMETERS, algorithm={"name": "pbt", "params": settings})
    tuner.start(run={**RUN, **run}, fields=FIELDS)
    tuner.trainer.wait_for_runs(4)


def evaluated(tuner: Tuner, *losses: float) -> None:
    """Trains an epoch of each run, one after the other."""
    for number, loss in enumerate(losses, start=1):
        evaluate(tuner, number, loss)


def evaluate(tuner: Tuner, number: int, loss: float) -> None:
    """Trains an epoch of a run, and waits until the population has decided what follows from it."""
    run = f"runs/r{number}"
    tuner.trainer.evaluate(run, loss)
    epoch = len(tuner.trainer.runs[run].evaluations)
    wait_until(lambda: (tuner.studies, number, epoch) in _decided, "a decision")


def exploits(tuner: Tuner) -> dict[int, tuple[Exploit, ...]]:
    return {trial.number: trial.exploits for trial in tuner.trials() if trial.exploits}


def settled(tuner: Tuner) -> dict[int, tuple[Exploit, ...]]:
    """Waits until all decisions have ended."""
    wait_until(lambda: all(one.has_ended for found in exploits(tuner).values() for one in found), "decisions")
    return exploits(tuner)


def finish(tuner: Tuner) -> list[Trial]:
    for run in tuner.trainer.runs:
        tuner.trainer.finish(run)
    assert (tuner.ended().job.state, tuner.run().end_reason) == (JobState.SUCCEEDED, "MAX_TRIALS")
    assert len(tuner.trainer.runs) == 4
    return tuner.trials()


def test_the_worst_run_continues_with_the_weights_and_perturbed_values_of_the_best(tuner: Tuner) -> None:
    start(tuner)
    evaluated(tuner, 0.1, 0.2, 0.3, 0.9)  # the interval is two epochs
    assert not exploits(tuner)
    evaluated(tuner, 0.1, 0.05, 0.3, 0.9)
    found = settled(tuner)
    assert list(found) == [4]
    (exploit,) = found[4]
    trials = tuner.trials()
    assert (exploit.epoch, exploit.source, exploit.source_step, exploit.applied_step) == (2, 2, 20, 21)
    assert exploit.old == trials[3].parameters
    for name, value in exploit.new.items():
        low, high = (1e-4, 0.1) if name == "optimizer.params.lr" else (0.1, 0.99)
        best = float(trials[1].parameters[name])
        assert value in [min(max(factor * best, low), high) for factor in (0.5, 2.0)]
    assert tuner.trainer.actions == {
        ("runs/r4", "pbt-2-restore"): Restore("runs/r2", 20),
        ("runs/r4", "pbt-2-learning_rate"): SetValue("learning_rate", exploit.new["optimizer.params.lr"]),
        ("runs/r4", "pbt-2-momentum"): SetValue("momentum", exploit.new["momentum"]),
    }
    trials = finish(tuner)
    assert trials[3].exploits == (exploit,)
    assert trials[3].parameters == exploit.old  # with which the run started


def test_values_that_were_perturbed_are_inherited(tuner: Tuner) -> None:
    start(tuner, interval=1)
    evaluated(tuner, 0.1, 0.2, 0.3, 0.9)
    first = settled(tuner)[4][0]
    evaluated(tuner, 0.9, 0.8, 0.7, 0.01)  # now the run that copied is the best one
    settled(tuner)
    evaluated(tuner, 0.9, 0.8, 0.7, 0.01)
    last = settled(tuner)[1][-1]
    assert (last.epoch, last.source) == (3, 4)
    for name, value in last.new.items():
        low, high = (1e-4, 0.1) if name == "optimizer.params.lr" else (0.1, 0.99)
        assert value in [min(max(factor * first.new[name], low), high) for factor in (0.5, 2.0)]


@pytest.fixture
def make_other(tmp_path: Path) -> Iterator[Callable[[], Tuner]]:
    """Makes a tuner with a database and a trainer of its own."""
    with ExitStack() as owned:
        yield lambda: Tuner(f"sqlite:///{tmp_path / 'other.db'}", ScriptedTrainer(), owned)


def test_the_same_seed_and_measurements_give_the_same_decisions(tuner: Tuner, make_other: Callable[[], Tuner]) -> None:
    found = []
    for one in (tuner, make_other()):
        start(one, interval=1)
        for losses in ((0.4, 0.3, 0.2, 0.1), (0.1, 0.5, 0.2, 0.6), (0.5, 0.5, 0.2, 0.1)):
            evaluated(one, *losses)
            settled(one)
        found.append(exploits(one))
    assert found[0] == found[1]
    assert sum(map(len, found[0].values())) >= 2


def test_a_decision_survives_a_crash_and_takes_effect_once(make: Callable[[], Tuner]) -> None:
    first = make()
    first.trainer.lost_answers = 1_000_000
    start(first)
    evaluated(first, 0.1, 0.2, 0.3, 0.9)
    evaluated(first, 0.1, 0.2, 0.3, 0.9)
    wait_until(lambda: first.trainer.num_steered > 0, "directives")
    first.runner.stop(10)
    (before,) = exploits(first)[4]
    assert (before.source_step, before.applied_step) == (20, 0)
    first.trainer.evaluate("runs/r1", 0.05)  # the checkpoint of another step would be the newest one now
    first.trainer.lost_answers = 0
    second = make()
    (after,) = settled(second)[4]
    assert after == Exploit(2, before.source, before.old, before.new, 20, after.applied_step)
    assert len(second.trainer.actions) == 3  # ScriptedTrainer.steer checks that they did not change
    evaluated(second, 0.1, 0.2, 0.3)
    finish(second)


def test_a_tuner_that_has_lost_the_job_changes_no_decision_of_its_successor(tuner: Tuner) -> None:
    start(tuner)
    live, name = tuner.studies.live, f"{STUDY}/trials/1"
    decided = Exploit(2, 3, {"rate": 0.1}, {"rate": 0.2})
    other = replace(decided, source=4, new={"rate": 0.3})
    assert set_exploit(live, TENANT, name, decided) == decided
    assert set_exploit(live, TENANT, name, other) == decided
    with_step = replace(decided, source_step=30)
    assert set_exploit(live, TENANT, name, with_step) == with_step
    assert set_exploit(live, TENANT, name, replace(decided, source_step=20)) == with_step
    applied = replace(with_step, applied_step=31)
    assert set_exploit(live, TENANT, name, applied) == applied
    assert set_exploit(live, TENANT, name, with_step) == applied
    assert tuner.trials()[0].exploits == (applied,)


def test_a_run_continues_as_it_was_if_a_step_fails(tuner: Tuner, monkeypatch: pytest.MonkeyPatch) -> None:
    values: dict[str, float] = {}

    def refuse_weights(tenant: str, run: str, actions: Mapping[str, Action]) -> int:
        """Refuses some actions; all others take effect, as with the trainer."""
        values.update((one.kind, one.value) for one in actions.values() if isinstance(one, SetValue))
        if any(isinstance(one, Restore) for one in actions.values()):
            raise FailedPrecondition("RUN_MISMATCH", "the runs train other models")
        return 1

    monkeypatch.setattr(tuner.trainer, "steer", refuse_weights)
    start(tuner)
    evaluated(tuner, 0.1, 0.2, 0.3, 0.9)
    evaluated(tuner, 0.1, 0.2, 0.3, 0.9)
    (exploit,) = settled(tuner)[4]
    assert (exploit.applied_step, exploit.failure_reason) == (0, "RUN_MISMATCH")
    assert values == {
        "learning_rate": exploit.old["optimizer.params.lr"],
        "momentum": exploit.old["momentum"],
    }
    assert [trial.exploits for trial in finish(tuner)][3] == (exploit,)


def test_a_trainer_without_room_is_asked_again(tuner: Tuner, monkeypatch: pytest.MonkeyPatch) -> None:
    full = ResourceExhausted("TOO_MANY_STREAMS", "this server has 32 open streams", retry_delay_s=1.0)
    for name in ("checkpoint", "steer"):
        refuse_first(monkeypatch, tuner.trainer, name, full)
    start(tuner)
    evaluated(tuner, 0.1, 0.2, 0.3, 0.9)
    evaluated(tuner, 0.1, 0.2, 0.3, 0.9)
    (exploit,) = settled(tuner)[4]
    assert (exploit.applied_step, exploit.failure_reason) == (21, "")


def refuse_first(monkeypatch: pytest.MonkeyPatch, trainer: ScriptedTrainer, method: str, error: MeshError) -> None:
    """Lets the first call of a method fail."""
    act, errors = getattr(trainer, method), [error]

    def call(*arguments: Any, **options: Any) -> Any:
        if errors:
            raise errors.pop()
        return act(*arguments, **options)

    monkeypatch.setattr(trainer, method, call)


def test_a_run_that_has_failed_does_not_keep_others_from_copying(tuner: Tuner) -> None:
    start(tuner, interval=1)
    evaluate(tuner, 1, 0.99)
    tuner.trainer.finish("runs/r1", Finished("FAILED", reason="OUT_OF_MEMORY", message="no memory left"))
    wait_until(lambda: tuner.trials()[0].state.ended, "the end of a trial")
    for number, loss in ((2, 0.1), (3, 0.3), (4, 0.9)) * 2:
        evaluate(tuner, number, loss)
    found = settled(tuner)
    assert {number: [one.source for one in each] for number, each in found.items()} == {4: [2]}


def test_a_tuner_that_continues_knows_all_epochs_of_all_runs_and_no_other_trials(make: Callable[[], Tuner]) -> None:
    last = MAX_PAGE_SIZE + 1
    first = make()
    start(first, run={"epochs": 2 * last}, interval=last)
    first.runner.stop(10)

    def measure(number: int, losses: Mapping[int, float]) -> None:
        for step, loss in losses.items():
            measurement = Measurement(step, {"loss": loss, "accuracy": 1 - loss})
            first.studies.measure(TENANT, f"{STUDY}/trials/{number}", measurement)

    (other,) = first.studies.suggest(TENANT, STUDY, "worker", 1)  # a trial without a run
    measure(other.trial.number, {last: 0.0})
    measure(1, {**dict.fromkeys(range(1, last), 0.5), last: 0.1})
    measure(2, {last: 0.4})
    measure(3, {last: 0.3})
    for number, loss in ((1, 0.1), (4, 0.9)):
        evaluation = Evaluation(last, {"loss": loss, "accuracy": 1 - loss})
        first.trainer.runs[f"runs/r{number}"].evaluations.append(evaluation)
    second = make()
    wait_until(lambda: bool(exploits(second)), "a decision")
    assert {number: [one.source for one in each] for number, each in settled(second).items()} == {4: [1]}
