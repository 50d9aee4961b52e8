import json
from typing import Any

import pytest

from common.errors import InvalidArgument
from deepseek.search.study_spec import StudySpec
from tests.deepseek.search.specs import CONDITIONAL, CONSTRAINED, MIXED, spec

X = {"name": "x", "float_range": {"low": 0, "high": 1}}
KIND = {"name": "kind", "choices": {"values": ["a", "b"]}}
LOSS = [{"metric": "loss", "goal": "GOAL_MINIMIZE"}]


def checked(data: dict[str, Any]) -> StudySpec:
    read = StudySpec.from_json(data)
    read.check()
    return read


@pytest.mark.parametrize("space", [MIXED, CONDITIONAL, CONSTRAINED])
def test_a_spec_survives_its_json_form(space: Any) -> None:
    before = spec(space, "tpe", params={"n_startup_trials": 4}, pruner="asha")
    assert StudySpec.from_json(json.loads(before.canonical())).canonical() == before.canonical()
    assert StudySpec.from_json(before.to_json()) == before


def test_all_defaults_are_filled_in() -> None:
    found = checked({"parameters": [X], "objectives": LOSS}).with_defaults(5)
    assert (found.algorithm.name, found.pruner.name, found.seed, found.max_trials) == ("tpe", "none", 5, 10_000)


@pytest.mark.parametrize(
    ("data", "reason", "field"),
    [
        ({"parameters": []}, "EMPTY_SPACE", "spec.parameters"),
        ({"objectives": []}, "MISSING_FIELD", "spec.objectives"),
        ({"parameters": [X, X]}, "DUPLICATE_NAME", "spec.parameters[1].name"),
        ({"parameters": [{**X, "name": f"x{i}"} for i in range(1001)]}, "BAD_VALUE", "spec.parameters"),
        (
            {"parameters": [X, {**X, "name": "y", "conditions": [{"parameter": "x", "at_least": 0.1}] * 21}]},
            "BAD_VALUE",
            "spec.parameters[1].conditions",
        ),
        (
            {
                "parameters": [
                    {"name": "x", "float_range": {"low": 0, "high": 1e30, "step": 1}},
                    {**X, "name": "y", "conditions": [{"parameter": "x", "at_least": 3}]},
                ]
            },
            "BAD_VALUE",
            "spec.parameters[0].float_range.high",
        ),
        (
            {
                "parameters": [
                    {"name": "x", "integer_range": {"low": 0, "high": 100000}},
                    {**X, "name": "y", "conditions": [{"parameter": "x", "at_least": "Infinity"}]},
                ]
            },
            "BAD_VALUE",
            "spec.parameters[1].conditions[0]",
        ),
        (
            {"parameters": [X, {**X, "name": "y", "conditions": [{"parameter": "x", "at_least": "Infinity"}]}]},
            "BAD_VALUE",
            "spec.parameters[1].conditions[0]",
        ),
        (
            {
                "parameters": [X],
                "parameter_constraints": [{"terms": [{"parameter": "x", "coefficient": 1}], "at_most": 2}] * 1001,
            },
            "BAD_VALUE",
            "spec.parameter_constraints",
        ),
        ({"parameters": [{"name": "x"}]}, "MISSING_FIELD", "spec.parameters[0]"),
        ({"parameters": [{**X, "choices": {"values": [1]}}]}, "BAD_VALUE", "spec.parameters[0]"),
        ({"parameters": [{**X, "nmae": "x"}]}, "UNKNOWN_FIELD", "spec.parameters[0].nmae"),
        (
            {"parameters": [{"name": "x", "float_range": {"low": 2, "high": 1}}]},
            "BAD_VALUE",
            "spec.parameters[0].float_range.high",
        ),
        (
            {"parameters": [{"name": "x", "float_range": {"low": "NaN", "high": 1}}]},
            "BAD_VALUE",
            "spec.parameters[0].float_range.low",
        ),
        (
            {"parameters": [{"name": "x", "float_range": {"low": 0, "high": 1, "log": True}}]},
            "BAD_VALUE",
            "spec.parameters[0].float_range.low",
        ),
        (
            {"parameters": [{"name": "x", "integer_range": {"low": 1, "high": 8, "log": True, "step": 2}}]},
            "BAD_VALUE",
            "spec.parameters[0].integer_range.step",
        ),
        (
            {"parameters": [{"name": "x", "integer_range": {"low": 1, "high": "99999999999999999999"}}]},
            "BAD_VALUE",
            "spec.parameters[0].integer_range.high",
        ),
        ({"parameters": [{"name": "x", "choices": {}}]}, "MISSING_FIELD", "spec.parameters[0].choices.values"),
        (
            {"parameters": [{"name": "x", "choices": {"values": [1, True]}}]},
            "BAD_VALUE",
            "spec.parameters[0].choices.values[1]",
        ),
        (
            {"parameters": [{"name": "x", "choices": {"values": [None]}}]},
            "BAD_VALUE",
            "spec.parameters[0].choices.values[0]",
        ),
        (
            {"parameters": [{**X, "conditions": [{"parameter": "kind", "values": ["a"]}]}, KIND]},
            "BAD_VALUE",
            "spec.parameters[0].conditions[0].parameter",
        ),
        (
            {"parameters": [KIND, {**X, "conditions": [{"parameter": "kind"}]}]},
            "MISSING_FIELD",
            "spec.parameters[1].conditions[0].values",
        ),
        (
            {"parameters": [KIND, {**X, "conditions": [{"parameter": "kind", "values": ["c"]}]}]},
            "BAD_VALUE",
            "spec.parameters[1].conditions[0].values[0]",
        ),
        (
            {"parameters": [KIND, {**X, "conditions": [{"parameter": "kind", "at_least": 1}]}]},
            "BAD_VALUE",
            "spec.parameters[1].conditions[0]",
        ),
        (
            {
                "parameters": [
                    KIND,
                    {
                        **X,
                        "conditions": [{"parameter": "kind", "values": ["a"]}, {"parameter": "kind", "values": ["b"]}],
                    },
                ]
            },
            "BAD_VALUE",
            "spec.parameters[1].conditions[1]",
        ),
        (
            {"parameters": [X, {**X, "name": "y", "conditions": [{"parameter": "x", "at_least": 2}]}]},
            "BAD_VALUE",
            "spec.parameters[1].conditions[0]",
        ),
        (
            {
                "parameters": [
                    {"name": "n", "integer_range": {"low": 1, "high": 9, "step": 4}},
                    {**X, "conditions": [{"parameter": "n", "at_least": 2, "at_most": 4}]},
                ]
            },
            "BAD_VALUE",
            "spec.parameters[1].conditions[0]",
        ),
        ({"parameters": [X], "objectives": [{"metric": "loss"}]}, "MISSING_FIELD", "spec.objectives[0].goal"),
        ({"parameters": [X], "objectives": LOSS * 2}, "DUPLICATE_NAME", "spec.objectives[1].metric"),
        (
            {"parameters": [X], "objectives": [{"metric": "loss", "goal": "SMALL"}]},
            "BAD_VALUE",
            "spec.objectives[0].goal",
        ),
        (
            {"parameters": [X], "objectives": LOSS, "outcome_constraints": [{"metric": "bytes"}]},
            "BAD_VALUE",
            "spec.outcome_constraints[0]",
        ),
        (
            {"parameters": [X], "objectives": LOSS, "algorithm": {"name": "tarot"}},
            "UNKNOWN_COMPONENT",
            "spec.algorithm.name",
        ),
        ({"parameters": [X], "objectives": LOSS, "pruner": {"name": "axe"}}, "UNKNOWN_COMPONENT", "spec.pruner.name"),
        (
            {
                "parameters": [X],
                "objectives": [*LOSS, {"metric": "bytes", "goal": "GOAL_MINIMIZE"}],
                "pruner": {"name": "asha"},
            },
            "BAD_VALUE",
            "spec.pruner.name",
        ),
        ({"parameters": [X], "objectives": LOSS, "seed": -1}, "BAD_VALUE", "spec.seed"),
        ({"parameters": [X], "objectives": LOSS, "max_trials": 10_001}, "BAD_VALUE", "spec.max_trials"),
    ],
)
def test_a_mistake_is_reported_with_its_path(data: dict[str, Any], reason: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        checked({"parameters": [X], "objectives": LOSS, **data})
    assert (error.value.reason, error.value.field) == (reason, field)


@pytest.mark.parametrize(
    ("terms", "at_most", "reason"),
    [
        ([{"parameter": "x", "coefficient": 1}], -1, "EMPTY_SPACE"),
        ([{"parameter": "kind", "coefficient": 1}], 1, "BAD_VALUE"),
        ([{"parameter": "x", "coefficient": "NaN"}], 1, "BAD_VALUE"),
        ([], 1, "MISSING_FIELD"),
    ],
)
def test_a_constraint_that_cannot_hold_is_refused(terms: list[Any], at_most: float, reason: str) -> None:
    constraint = {"terms": terms, "at_most": at_most}
    with pytest.raises(InvalidArgument) as error:
        checked({"parameters": [X, KIND], "objectives": LOSS, "parameter_constraints": [constraint]})
    assert error.value.reason == reason


def test_constraints_that_exclude_each_other_leave_an_empty_space() -> None:
    constraints = [
        {"terms": [{"parameter": "x", "coefficient": 1}], "at_most": 0.4},
        {"terms": [{"parameter": "x", "coefficient": -1}], "at_most": -0.6},
    ]
    with pytest.raises(InvalidArgument, match="none of 10000 random points") as error:
        checked({"parameters": [X], "objectives": LOSS, "parameter_constraints": constraints})
    assert error.value.reason == "EMPTY_SPACE"


def test_all_mistakes_are_reported_at_once() -> None:
    with pytest.raises(InvalidArgument) as error:
        checked({"parameters": [X, X], "seed": -1, "algorithm": {"name": "tarot"}})
    assert len(error.value.violations) == 4
