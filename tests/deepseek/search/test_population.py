"""Population-based training: who copies whom, and with which values."""

import math
from typing import Any

import pytest

from common.errors import InvalidArgument
from deepseek.components import ALGORITHMS
from deepseek.search.population import PopulationSettings
from deepseek.search.space import FloatRange
from deepseek.search.study_run import StudyRunSpec
from deepseek.search.study_spec import StudySpec
from deepseek.trainjob.spec_parts import Component
from tests.services.trainer.tasks import picture_spec
from tests.services.tuner.specs import RUN_STUDY_SPEC

SCORES = {number: number / 10 for number in range(1, 9)}


def test_the_worst_copy_the_best_and_the_others_continue() -> None:
    settings = PopulationSettings(quantile=0.25)
    sources = {number: settings.choose_source(7, number, 3, SCORES) for number in SCORES}
    assert [number for number, source in sources.items() if source] == [1, 2]
    assert set(sources.values()) <= {None, 7, 8}
    chosen = {settings.choose_source(seed, 1, 3, SCORES) for seed in range(20)}
    assert chosen == {7, 8}


def test_diverged_members_copy_and_are_not_copied() -> None:
    settings = PopulationSettings(quantile=0.5)
    assert settings.choose_source(7, 2, 1, {1: 0.1, 2: math.nan}) == 1
    assert settings.choose_source(7, 1, 1, {1: math.nan, 2: math.nan}) is None
    assert settings.choose_source(7, 1, 1, {1: 0.1}) is None


def test_decisions_follow_from_the_seed_the_trial_and_the_epoch() -> None:
    settings, domains = PopulationSettings(factors=(0.5, 2.0, 3.0)), {"rate": FloatRange(0.01, 1.0)}
    first = [settings.perturbed(7, 1, epoch, {"rate": 0.1}, domains) for epoch in range(30)]
    assert first == [settings.perturbed(7, 1, epoch, {"rate": 0.1}, domains) for epoch in range(30)]
    assert {round(one["rate"], 6) for one in first} == {0.05, 0.2, 0.3}
    assert settings.perturbed(7, 1, 1, {"rate": 0.9}, {"rate": FloatRange(0.8, 1.0)})["rate"] in (0.8, 1.0)


def test_decisions_are_due_at_intervals_but_not_at_the_end() -> None:
    settings = PopulationSettings(interval=2)
    assert [epoch for epoch in range(1, 9) if settings.is_due(epoch, 8)] == [2, 4, 6]


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"population": 1}, "population"),
        ({"population": 65}, "population"),
        ({"interval": 0}, "interval"),
        ({"quantile": 0.6}, "quantile"),
        ({"quantile": float("nan")}, "quantile"),
        ({"factors": []}, "factors"),
        ({"factors": [1.0, -1.0]}, "factors"),
    ],
)
def test_wrong_settings_are_refused_when_a_study_is_created(params: dict[str, Any], field: str) -> None:
    from deepseek.search.engine import Engine

    spec = StudySpec.from_json({**RUN_STUDY_SPEC, "algorithm": {"name": "pbt", "params": params}}).with_defaults(1)
    with pytest.raises(InvalidArgument) as error:
        Engine("s", spec)
    assert error.value.field == f"spec.algorithm.params.{field}"


def test_settings_are_read_from_numbers_of_a_struct() -> None:
    assert "pbt" in ALGORITHMS.names()
    params = {"population": 4.0, "interval": 2.0, "factors": [0.5, 2.0]}
    settings = PopulationSettings.of(Component("pbt", params))
    assert settings == PopulationSettings(4, 2, factors=(0.5, 2.0))
    assert PopulationSettings.of(Component("tpe")) is None


def test_only_what_can_be_steered_may_be_a_parameter() -> None:
    rate = RUN_STUDY_SPEC["parameters"][0]
    momentum = {"name": "momentum", "float_range": {"low": 0.5, "high": 0.99}}
    run = picture_spec("datasets/p/versions/1", schedule={"name": "constant"}, optimizer={"name": "sgd"})
    given: dict[str, Any] = {
        "run": run,
        "fields": [{"parameter": "momentum", "field": "optimizer.params.momentum"}],
    }

    def completed(spec: dict[str, Any], **changes: Any) -> StudyRunSpec:
        study = {**RUN_STUDY_SPEC, "parameters": [rate, momentum], "algorithm": {"name": "pbt"}, **changes}
        return StudyRunSpec.from_json(spec).completed(StudySpec.from_json(study).with_defaults(1))[0]

    assert completed(given).metric == ""
    for change, changes, field in (
        ({"fields": [{"parameter": "momentum", "field": "clip_norm"}]}, {}, "spec.fields"),
        ({"run": {**run, "schedule": {"name": "one_cycle"}}}, {}, "spec.run.schedule.name"),
        ({"run": {**run, "policy": {"name": "plateau"}}}, {}, "spec.run.policy.name"),
        ({}, {"pruner": {"name": "asha"}}, "name"),
        ({}, {"parameters": [rate, {"name": "momentum", "choices": {"values": [0.5, 0.9]}}]}, "spec.fields"),
        ({}, {"parameters": [rate, {"name": "momentum", "float_range": {"low": 0.5, "high": 1}}]}, "spec.fields"),
        ({}, {"parameters": [{**rate, "float_range": {"low": 0, "high": 0.1}}, momentum]}, "spec.fields"),
    ):
        with pytest.raises(InvalidArgument) as error:
            completed({**given, **change}, **changes)
        assert (error.value.reason, error.value.field) == ("BAD_VALUE", field)
