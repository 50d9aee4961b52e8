"""Measurements over gRPC: what the contract promises."""

import json
import math
from typing import Any

import pytest
from google.protobuf import json_format

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.client.studies import Studies
from protos.tuner.v1 import tuner_pb2
from tests.services.tuner.specs import SPEC, Start, parameters


def test_a_restarted_worker_measures_its_steps_again(studies: Studies) -> None:
    studies.create("digits", SPEC)
    (trial,) = studies.suggest("digits", "worker")
    for step, loss in ((1, 0.5), (2, 0.25)):
        studies.measure(trial.name, step, loss=loss)
    assert studies.suggest("digits", "worker")[0].name == trial.name  # the worker has restarted
    before = studies.get("digits").sequence
    measured = []
    for step, loss in ((1, 0.75), (2, 0.125), (3, 0.0625)):
        measurement = {"step": step, "metrics": [{"name": "loss", "value": loss}]}
        request = {"name": trial.name, "measurement": measurement}
        measured.append(studies._stub.AddMeasurement(json_format.ParseDict(request, tuner_pb2.AddMeasurementRequest())))
    assert [one.already_measured for one in measured] == [True, True, False]
    assert studies.get("digits").sequence == before + 1
    assert [one.metrics[0].value for one in studies.trial(trial.name).measurements] == [0.5, 0.25, 0.0625]


def test_metrics_may_have_any_name(studies: Studies) -> None:
    studies.create("digits", SPEC)
    (trial,) = studies.suggest("digits", "worker")
    values = {"step": 1.0, "trial": 2.0, "self": 3.0, "metrics": 4.0, "check_early_stopping": 5.0}
    studies.measure(trial.name, 1, loss=1.0, **values)
    studies.report(trial.name, 2, loss=1.0, **values)
    ended = studies.complete(trial.name, loss=1.0, **values)
    for found in (ended, *studies.trial(trial.name).measurements):
        assert {one.name: one.value for one in found.metrics} == {"loss": 1.0, **values}


def test_a_report_is_a_measurement_and_a_decision(studies: Studies) -> None:
    spec = {**SPEC, "pruner": {"name": "median", "params": {"n_startup_trials": 1}}}
    for name in ("one", "two"):
        studies.create(name, spec)
        (good,) = studies.suggest(name, "worker")
        assert not studies.report(good.name, 1, loss=0.5)
        studies.complete(good.name, loss=0.5)
        (bad,) = studies.suggest(name, "worker")
        if name == "one":
            assert studies.report(bad.name, 1, loss=2.0)
        else:
            assert not studies.measure(bad.name, 1, loss=2.0)
            assert studies.should_stop(bad.name)
        assert studies.trial(bad.name).state == tuner_pb2.TRIAL_STATE_STOPPING
        assert studies.end_early(bad.name).state == tuner_pb2.TRIAL_STATE_STOPPED
    first, second = (parameters(studies.suggest(name, "new")[0]) for name in ("one", "two"))
    assert first == second


def test_many_measurements_are_read_in_pages_that_fit_in_a_message(studies: Studies) -> None:
    studies.create("digits", SPEC)
    (trial,) = studies.suggest("digits", "worker")
    values = {f"{'long' * 49}{number:03}": float(number) for number in range(99)}
    for step in range(1, 13):
        studies.measure(trial.name, step, loss=1.0, **(values if step > 2 else {}))
    first = studies._stub.GetTrial(tuner_pb2.GetTrialRequest(name=trial.name, page_size=5))
    assert [one.step for one in first.trial.measurements] == [1, 2, 3, 4, 5]
    rest = studies._stub.GetTrial(tuner_pb2.GetTrialRequest(name=trial.name, page_token=first.next_page_token))
    assert [one.step for one in rest.trial.measurements] == list(range(6, 13))
    assert not rest.next_page_token
    assert [one.step for one in studies.trial(trial.name).measurements] == list(range(1, 13))
    with pytest.raises(InvalidArgument) as error:
        studies._stub.GetTrial(tuner_pb2.GetTrialRequest(name=trial.name, page_token="none"))
    assert error.value.reason == "BAD_PAGE_TOKEN"


def test_a_page_of_measurements_is_cut_where_it_would_not_fit(
    studies: Studies, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.tuner.servicer._MAX_PAGE_BYTES", 2_000)
    studies.create("digits", SPEC)
    (trial,) = studies.suggest("digits", "worker")
    for step in range(1, 41):
        studies.measure(trial.name, step, loss=1.0, **{f"metric-{number}": 1.0 for number in range(5)})
    page = studies._stub.GetTrial(tuner_pb2.GetTrialRequest(name=trial.name))
    assert 1 <= len(page.trial.measurements) < 40
    assert page.ByteSize() < 2_200
    assert [one.step for one in studies.trial(trial.name).measurements] == list(range(1, 41))


def test_frequent_calls_are_audited_only_if_they_fail(start: Start, tmp_path: Any) -> None:
    studies = start()
    studies.create("digits", SPEC)
    (trial,) = studies.suggest("digits", "worker")
    studies.measure(trial.name, 1, loss=1.0)
    studies.should_stop(trial.name)
    studies.complete(trial.name)
    with pytest.raises(FailedPrecondition):
        studies.measure(trial.name, 2, loss=1.0)
    lines = (tmp_path / "home" / "audit" / "tuner.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    assert [(one["what"].rpartition("/")[2], one["outcome"]["code"]) for one in records] == [
        ("CreateStudy", "OK"),
        ("SuggestTrials", "OK"),
        ("CompleteTrial", "OK"),
        ("AddMeasurement", "FAILED_PRECONDITION"),
    ]


def test_metrics_that_are_listed_twice_are_refused(studies: Studies) -> None:
    studies.create("digits", SPEC)
    (trial,) = studies.suggest("digits", "worker")
    metric = {"name": "loss", "value": 1.0}
    request = json_format.ParseDict(
        {"name": trial.name, "measurement": {"step": 1, "metrics": [metric, metric]}}, tuner_pb2.AddMeasurementRequest()
    )
    with pytest.raises(InvalidArgument) as error:
        studies._stub.AddMeasurement(request)
    assert error.value.reason == "DUPLICATE_NAME"


def test_a_result_that_is_not_finite_fails_the_trial(studies: Studies) -> None:
    studies.create("digits", SPEC)
    (trial,) = studies.suggest("digits", "worker")
    ended = studies.complete(trial.name, loss=math.nan)
    assert ended.state == tuner_pb2.TRIAL_STATE_FAILED
    assert ended.failure_reason == "NOT_FINITE"
    assert math.isnan(ended.metrics[0].value)
    (trial,) = studies.suggest("digits", "worker")
    assert studies.complete(trial.name, loss=math.inf).state == tuner_pb2.TRIAL_STATE_SUCCEEDED


def test_a_finished_trial_takes_no_measurement(studies: Studies) -> None:
    studies.create("digits", SPEC)
    (trial,) = studies.suggest("digits", "worker")
    studies.complete(trial.name, loss=1.0)
    for call in (
        lambda: studies.measure(trial.name, 1, loss=1.0),
        lambda: studies.complete(trial.name, loss=2.0),
        lambda: studies.end_early(trial.name),
    ):
        with pytest.raises(FailedPrecondition) as error:
            call()
        assert error.value.reason == "TRIAL_ENDED"
    assert not studies.should_stop(trial.name)
    assert studies.stop_trial(trial.name).state == tuner_pb2.TRIAL_STATE_SUCCEEDED
