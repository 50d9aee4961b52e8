"""Studies that are rebuilt from the database: after a restart, for another process, or after they left memory."""

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from deepseek.client.studies import Studies
from deepseek.search.study import Study
from deepseek.search.study_spec import StudySpec
from deepseek.search.trials import Outcome, TrialState
from tests.services.tuner.specs import SPEC, Start, parameters


def test_suggestions_continue_after_a_restart(start: Start) -> None:
    first = start()
    for name in ("one", "two"):
        first.create(name, SPEC)
        for number in range(7):
            (trial,) = first.suggest(name, "worker")
            first.measure(trial.name, 1, loss=number)
            first.complete(trial.name)
    (kept,) = first.suggest("one", "slow")
    (other,) = first.suggest("two", "slow")
    second = start()  # another process in effect: it shares only the database
    assert second.suggest("one", "slow") == [kept]
    (next_one,), (next_two,) = second.suggest("one", "new"), first.suggest("two", "new")
    assert parameters(next_one) == parameters(next_two)
    assert parameters(kept) == parameters(other)


def test_two_tuners_never_suggest_the_same_trial(start: Start) -> None:
    tuners = [start(), start()]
    tuners[0].create("digits", SPEC)

    def work(index: int) -> list[str]:
        names = []
        for number in range(8):
            (trial,) = tuners[index % 2].suggest("digits", f"worker-{index}")
            names.append(trial.name)
            tuners[(index + 1) % 2].measure(trial.name, 1, loss=number)
            tuners[index % 2].complete(trial.name, loss=number)
        return names

    with ThreadPoolExecutor(4) as pool:
        names = [name for found in pool.map(work, range(4)) for name in found]
    assert sorted(names) == sorted(trial.name for trial in tuners[1].trials("digits"))
    assert len(set(names)) == 32


def test_another_tuner_notices_that_a_study_was_made_anew(start: Start) -> None:
    first, second = start(), start()
    first.create("digits", SPEC)
    first.suggest("digits", "worker", 3)
    second.delete("digits")
    second.create("digits", SPEC)
    (trial,) = first.suggest("digits", "worker")
    assert trial.name == "studies/digits/trials/1"
    assert [one.name for one in second.trials("digits")] == [trial.name]


def test_studies_that_do_not_fit_in_memory_continue(start: Start) -> None:
    studies = start(max_studies_in_memory=1)
    for name in ("a", "b", "c"):
        studies.create(name, {**SPEC, "algorithm": {"name": "cmaes", "params": {"popsize": 4}}, "pruner": {}})
    drawn: dict[str, list[Any]] = {"a": [], "b": [], "c": []}
    for number in range(9):
        for name, found in drawn.items():
            (trial,) = studies.suggest(name, "worker")
            found.append(parameters(trial))
            studies.complete(trial.name, loss=float(number % 4))
    assert drawn["a"] == drawn["b"] == drawn["c"]


def test_the_service_suggests_what_the_library_suggests(studies: Studies) -> None:
    studies.create("digits", SPEC)
    library = Study("studies/digits", StudySpec.from_json(SPEC).with_defaults(1))
    for number in range(1, 11):
        (trial,) = studies.suggest("digits", "worker")
        (expected,), _ = library.suggest("worker")
        assert parameters(trial) == expected.parameters
        studies.complete(trial.name, loss=1 / number)
        library.complete(number, Outcome(TrialState.SUCCEEDED, {"loss": 1 / number}))
