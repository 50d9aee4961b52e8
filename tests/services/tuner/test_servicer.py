"""The tuner over gRPC: what the contract promises."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from common.errors import AlreadyExists, FailedPrecondition, InvalidArgument, MeshError, NotFound
from deepseek.client.studies import Studies, parse_study_spec
from protos.tuner.v1 import tuner_pb2
from tests.services.tuner.specs import SPEC, parameters


def test_a_study_is_created_once(studies: Studies) -> None:
    first = studies.create("digits", SPEC, request_id="one")
    assert first.name == "studies/digits"
    assert first.state == tuner_pb2.STUDY_STATE_ACTIVE
    assert (first.spec.max_trials, first.spec.seed, first.spec.algorithm.name) == (10_000, 7, "tpe")
    assert studies.create("digits", SPEC, request_id="one") == first == studies.get("digits")
    with pytest.raises(AlreadyExists) as error:
        studies.create("digits", SPEC)
    assert error.value.reason == "STUDY_EXISTS"
    with pytest.raises(AlreadyExists) as error:
        studies.create("digits", {**SPEC, "seed": 8}, request_id="one")
    assert error.value.reason == "REQUEST_ID_REUSED"


def test_a_seed_is_drawn_and_stored(studies: Studies) -> None:
    seeds = {studies.create(f"s{number}", {**SPEC, "seed": 0}).spec.seed for number in range(3)}
    assert len(seeds) == 3
    assert min(seeds) > 0


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"parameters": []}, "EMPTY_SPACE", "spec.parameters"),
        ({"algorithm": {"name": "tarot"}}, "UNKNOWN_COMPONENT", "spec.algorithm.name"),
        ({"algorithm": {"name": "grid"}}, "BAD_VALUE", "spec.algorithm.params"),
        ({"pruner": {"name": "hyperband"}}, "MISSING_FIELD", "spec.pruner.params.max_resource"),
        ({"max_trials": -1}, "BAD_VALUE", "spec.max_trials"),
    ],
)
def test_a_wrong_spec_creates_nothing(studies: Studies, change: dict[str, Any], reason: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        studies.create("digits", {**SPEC, **change})
    assert (error.value.reason, error.value.field) == (reason, field)
    assert list(studies.list()) == []


@pytest.mark.parametrize("bound", [math.inf, -math.inf, math.nan])
def test_a_bound_that_is_not_finite_is_refused(studies: Studies, bound: float) -> None:
    spec = parse_study_spec(SPEC)
    spec.parameters[0].float_range.high = bound
    with pytest.raises(InvalidArgument) as error:
        studies.create("digits", spec)
    assert error.value.field == "spec.parameters[0].float_range.high"


def test_a_worker_searches_and_finds(studies: Studies) -> None:
    studies.create("digits", SPEC)
    for number in range(1, 13):
        (trial,) = studies.suggest("digits", "worker")
        assert trial.name == f"studies/digits/trials/{number}"
        values = parameters(trial)
        assert ("momentum" in values) == (values["optimizer"] == "sgd")
        for step in (1, 3):
            assert not studies.measure(trial.name, step, loss=values["depth"] / step)
            if studies.should_stop(trial.name):
                studies.end_early(trial.name)
                break
        else:
            studies.complete(trial.name, loss=values["depth"])
    trials = list(studies.trials("digits"))
    states = {trial.state for trial in trials}
    assert states == {tuner_pb2.TRIAL_STATE_SUCCEEDED, tuner_pb2.TRIAL_STATE_STOPPED}
    done = [trial for trial in trials if trial.state == tuner_pb2.TRIAL_STATE_SUCCEEDED]
    best = min(trial.metrics[0].value for trial in done)
    assert [trial.name for trial in studies.optimal("digits")] == [
        trial.name for trial in done if trial.metrics[0].value == best
    ]
    found = studies.trial(trials[0].name)
    assert [one.step for one in found.measurements] == [1, 3]
    assert found.last_measurement.step == 3
    assert found.feasible
    study = studies.get("digits")
    assert (study.num_trials, study.num_ended) == (12, 12)


def test_sixteen_workers_search_at_once(studies: Studies) -> None:
    studies.create("digits", SPEC)

    def work(index: int) -> list[str]:
        names = []
        for number in range(4):
            (trial,) = studies.suggest("digits", f"worker-{index}")
            names.append(trial.name)
            studies.measure(trial.name, 1, loss=number + index)
            studies.complete(trial.name, loss=number + index)
        return names

    with ThreadPoolExecutor(16) as pool:
        names = [name for found in pool.map(work, range(16)) for name in found]
    assert len(set(names)) == 64
    assert studies.get("digits").num_ended == 64


def test_every_call_may_be_repeated(studies: Studies) -> None:
    studies.create("digits", SPEC)
    (trial,) = studies.suggest("digits", "worker")
    for _ in range(2):
        assert studies.suggest("digits", "worker") == [trial]
    for _ in range(2):
        studies.measure(trial.name, 1, loss=math.nan, note=2.0)
    assert [len(studies.complete(trial.name, loss=1.0).metrics) for _ in range(2)] == [1, 1]
    studies.measure(trial.name, 1, loss=math.nan, note=2.0)  # a late repetition
    (failed, early) = studies.suggest("digits", "worker", 2)
    assert studies.fail(failed.name, "too hot") == studies.fail(failed.name, "too hot")
    assert studies.end_early(early.name) == studies.end_early(early.name)
    assert studies.stop("digits") == studies.stop("digits")
    assert len(studies.trial(trial.name).measurements) == 1


@pytest.mark.parametrize(
    ("call", "error", "reason"),
    [
        (lambda one, name: one.measure(name, -1, loss=2.0), InvalidArgument, "BAD_VALUE"),
        (lambda one, name: one.measure(name, 2), InvalidArgument, "MISSING_FIELD"),
        (lambda one, name: one.fail(name, "m", reason="too hot"), InvalidArgument, "BAD_VALUE"),
        (lambda one, name: one.fail(name, "nul\0"), InvalidArgument, "BAD_VALUE"),
        (lambda one, name: one._end(name), InvalidArgument, "MISSING_FIELD"),
        (lambda one, name: one._end(name, stopped=False), InvalidArgument, "BAD_VALUE"),
        (lambda one, name: one.measure("digits/9", 1, loss=1.0), NotFound, "TRIAL_NOT_FOUND"),
        (lambda one, name: one.measure("letters/1", 1, loss=1.0), NotFound, "STUDY_NOT_FOUND"),
        (lambda one, name: one.trial("digits/9"), NotFound, "TRIAL_NOT_FOUND"),
        (lambda one, name: one.trial("letters/9"), NotFound, "STUDY_NOT_FOUND"),
        (lambda one, name: one.suggest("letters", "w"), NotFound, "STUDY_NOT_FOUND"),
        (lambda one, name: one.suggest("digits", ""), InvalidArgument, "BAD_VALUE"),
        (lambda one, name: one.suggest("digits", "trainer/0"), InvalidArgument, "BAD_VALUE"),
        (lambda one, name: one.suggest("digits", "w", 101), InvalidArgument, "BAD_VALUE"),
        (lambda one, name: list(one.trials("letters")), NotFound, "STUDY_NOT_FOUND"),
        (lambda one, name: list(one.optimal("letters")), NotFound, "STUDY_NOT_FOUND"),
        (lambda one, name: one.delete("letters"), NotFound, "STUDY_NOT_FOUND"),
        (lambda one, name: list(one.watch("letters")), NotFound, "STUDY_NOT_FOUND"),
        (lambda one, name: list(one.watch("digits", after_sequence=-1)), InvalidArgument, "BAD_VALUE"),
    ],
)
def test_a_wrong_call_changes_nothing(
    studies: Studies, call: Callable[[Studies, str], Any], error: type[MeshError], reason: str
) -> None:
    studies.create("digits", SPEC)
    (trial,) = studies.suggest("digits", "worker")
    studies.measure(trial.name, 1, loss=1.0)
    before = studies.get("digits")
    with pytest.raises(error) as raised:
        call(studies, trial.name)
    assert raised.value.reason == reason
    assert studies.get("digits") == before
    assert studies.complete(trial.name).metrics[0].value == 1.0


def test_the_end_of_a_trial_can_suggest_the_next(studies: Studies, tmp_path: Any) -> None:
    for name in ("one", "two"):
        studies.create(name, {**SPEC, "max_trials": 8})
    (trial,) = studies.suggest("one", "worker")
    combined = [parameters(trial)]
    while (following := studies.complete_and_suggest(trial.name, loss=float(len(combined)))) is not None:
        assert following.client_id == "worker"
        combined.append(parameters(following))
        trial = following
    separate = []
    for number in range(1, 9):
        (trial,) = studies.suggest("two", "worker")
        separate.append(parameters(trial))
        studies.complete(trial.name, loss=float(number))
    assert combined == separate
    assert studies.get("one").num_ended == 8
    repeated = tuner_pb2.CompleteTrialRequest(name="studies/one/trials/8", num_next=2)
    repeated.final.metrics.add(name="loss", value=8.0)
    assert not studies._stub.CompleteTrial(repeated).next
    repeated.num_next = 101
    with pytest.raises(InvalidArgument) as error:
        studies._stub.CompleteTrial(repeated)
    assert error.value.field == "num_next"


def test_a_repeated_end_returns_the_same_next_trial(studies: Studies) -> None:
    studies.create("digits", SPEC)
    (trial,) = studies.suggest("digits", "worker")
    first = studies.complete_and_suggest(trial.name, loss=1.0)
    assert first is not None
    assert studies.complete_and_suggest(trial.name, loss=1.0) == first
    assert studies.suggest("digits", "worker") == [first]
    studies.stop("digits")
    assert studies.complete_and_suggest(first.name, loss=1.0) is None


def test_a_trial_and_a_study_can_be_stopped(studies: Studies) -> None:
    studies.create("digits", SPEC)
    first, second = studies.suggest("digits", "worker", 2)
    studies.stop_trial(first.name)
    assert studies.should_stop(first.name)
    assert studies.measure(first.name, 1, loss=1.0)
    assert not studies.measure(second.name, 1, loss=1.0)
    assert studies.stop("digits").state == tuner_pb2.STUDY_STATE_STOPPED
    assert studies.measure(second.name, 2, loss=1.0)
    with pytest.raises(FailedPrecondition) as error:
        studies.suggest("digits", "another")
    assert error.value.reason == "STUDY_STOPPED"
    assert studies.end_early(first.name).state == tuner_pb2.TRIAL_STATE_STOPPED


def test_pages_list_everything_once(studies: Studies) -> None:
    for number in range(3):
        studies.create(f"s{number}", {**SPEC, "algorithm": {"name": "random"}})
    studies.suggest("s1", "worker", 7)
    token, found = "", []
    while True:
        page = studies._stub.ListTrials(tuner_pb2.ListTrialsRequest(parent="studies/s1", page_size=3, page_token=token))
        found += [trial.name for trial in page.trials]
        if not (token := page.next_page_token):
            break
    assert found == [f"studies/s1/trials/{number}" for number in range(1, 8)]
    request = tuner_pb2.ListTrialsRequest(parent="studies/s1", state=tuner_pb2.TRIAL_STATE_FAILED)
    assert not studies._stub.ListTrials(request).trials
    assert [study.name for study in studies.list()] == ["studies/s2", "studies/s1", "studies/s0"]
    page = studies._stub.ListTrials(tuner_pb2.ListTrialsRequest(parent="studies/s1", page_size=3))
    with pytest.raises(InvalidArgument) as error:
        studies._stub.ListTrials(tuner_pb2.ListTrialsRequest(parent="studies/s2", page_token=page.next_page_token))
    assert error.value.reason == "BAD_PAGE_TOKEN"


def test_several_objectives_have_a_front(studies: Studies) -> None:
    objectives = [{"metric": "loss", "goal": "GOAL_MINIMIZE"}, {"metric": "speed", "goal": "GOAL_MAXIMIZE"}]
    spec = {**SPEC, "objectives": objectives, "pruner": {}, "algorithm": {"name": "nsga2"}}
    studies.create("digits", spec)
    for loss, speed in ((3.0, 1.0), (2.0, 5.0), (1.0, 1.0), (1.0, 2.0)):
        (trial,) = studies.suggest("digits", "worker")
        studies.complete(trial.name, loss=loss, speed=speed)
    assert [trial.name.rpartition("/")[2] for trial in studies.optimal("digits")] == ["2", "4"]


def test_a_deleted_study_is_gone_and_its_name_is_free(studies: Studies) -> None:
    studies.create("digits", SPEC)
    (trial,) = studies.suggest("digits", "worker")
    studies.delete("digits")
    with pytest.raises(NotFound):
        studies.complete(trial.name, loss=1.0)
    studies.create("digits", SPEC)
    (again,) = studies.suggest("digits", "other")
    assert again.name == trial.name
    assert parameters(again) == parameters(trial)
    assert again.client_id == "other"
