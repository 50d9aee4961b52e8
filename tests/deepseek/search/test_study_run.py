"""The spec of RunStudy: errors that it can have, and the run of a trial."""

from typing import Any

import pytest

from common.errors import InvalidArgument
from deepseek.search.study_run import StudyRunSpec
from deepseek.search.study_spec import StudySpec
from tests.services.trainer.tasks import picture_spec
from tests.services.tuner.specs import RUN_STUDY_SPEC

FIELDS = [{"parameter": "batch", "field": "batch_size"}]
SPEC: dict[str, Any] = {
    "run": picture_spec("datasets/pictures/versions/1", num_workers=1),
    "fields": FIELDS,
    "budget": {"max_epochs": "40"},
}


def study(**changes: Any) -> StudySpec:
    return StudySpec.from_json({**RUN_STUDY_SPEC, **changes}).with_defaults(1)


def completed(spec: dict[str, Any], **changes: Any) -> StudyRunSpec:
    return StudyRunSpec.from_json(spec).completed(study(**changes))[0]


def test_parameters_replace_fields_of_the_run() -> None:
    spec = completed(SPEC)
    assert spec.run.select_metric == "accuracy"  # the objective, because the run spec has none
    run = spec.run_of({"optimizer.params.lr": 0.5, "batch": 8.0})
    assert (run.optimizer.name, run.optimizer.params, run.batch_size) == ("adamw", {"lr": 0.5}, 8)
    assert run.model == spec.run.model
    assert StudyRunSpec.from_json(spec.to_json()) == spec
    assert spec.value_of("accuracy", {"loss": 1.0, "accuracy": 0.5}) == {"loss": 1.0, "accuracy": 0.5}
    other = StudyRunSpec.from_json({**SPEC, "metric": "loss"})
    assert other.value_of("cost", {"loss": 1.0}) == {"loss": 1.0, "cost": 1.0}
    assert other.value_of("cost", {"accuracy": 1.0}) == {"accuracy": 1.0}


@pytest.mark.parametrize(
    ("change", "reason", "field"),
    [
        ({"fields": []}, "UNKNOWN_FIELD", "spec.run.batch"),
        ({"fields": [*FIELDS, {"parameter": "depth", "field": "seed"}]}, "BAD_VALUE", "spec.fields[1].parameter"),
        ({"fields": [*FIELDS, *FIELDS]}, "DUPLICATE_NAME", "spec.fields[1].parameter"),
        ({"fields": [{"parameter": "batch", "field": "optimizer.params"}]}, "DUPLICATE_NAME", "spec.fields"),
        ({"fields": [{"parameter": "batch", "field": "inputs[7].field"}]}, "BAD_PATH", "spec.fields"),
        ({"fields": [{"parameter": "batch", "field": "batch size"}]}, "BAD_PATH", "spec.fields[0].field"),
        (
            {"fields": [{"parameter": "batch", "field": "optimizer.parms.x"}]},
            "UNKNOWN_FIELD",
            "spec.run.optimizer.parms",
        ),
        ({"fields": [{"parameter": "batch", "field": "train_split"}]}, "BAD_VALUE", "spec.run.train_split"),
        ({"fields": [{"parameter": "batch", "field": "eval_share"}]}, "BAD_VALUE", "spec.run.eval_share"),
        ({"metric": "precision"}, "BAD_VALUE", "spec.metric"),
        ({"budget": {}}, "MISSING_FIELD", "spec.budget"),
        ({"budget": {"max_parallel": 65, "max_trials": 1}}, "BAD_VALUE", "spec.budget.max_parallel"),
        ({"budget": {"max_seconds": "NaN"}}, "BAD_VALUE", "spec.budget.max_seconds"),
        ({"budget": {"max_epochs": -1}}, "BAD_VALUE", "spec.budget.max_epochs"),
        ({"budget": {"max_steps": 1}}, "UNKNOWN_FIELD", "spec.budget.max_steps"),
        ({"run": {**SPEC["run"], "epochs": 0}}, "BAD_VALUE", "spec.run.epochs"),
        ({"run": {**SPEC["run"], "model": {"name": "castle"}}}, "UNKNOWN_COMPONENT", "spec.run.model.name"),
        ({"runs": {}}, "UNKNOWN_FIELD", "spec.runs"),
    ],
)
def test_mistakes_are_found_before_anything_starts(change: dict[str, Any], reason: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as error:
        completed({**SPEC, **change})
    assert (error.value.reason, error.value.field) == (reason, field)


def test_the_ends_of_every_range_and_every_choice_are_checked() -> None:
    parameters = [
        RUN_STUDY_SPEC["parameters"][0],
        {"name": "batch", "integer_range": {"low": 0, "high": 8}},
        {"name": "model.name", "choices": {"values": ["image_question", "castle"]}},
        {"name": "schedule.name", "choices": {"values": ["constant", "one_cycle"]}},
    ]
    with pytest.raises(InvalidArgument) as error:
        completed(SPEC, parameters=parameters, seed=4)
    fields = [violation.field for violation in error.value.violations]
    assert set(fields) <= {"spec.run.batch_size", "spec.run.model.name"}
    parameters[2]["choices"] = {"values": ["image_question"]}
    with pytest.raises(InvalidArgument, match="with batch = 0: batch_size is missing or 0") as error:
        completed(SPEC, parameters=parameters, seed=4)
    assert error.value.field == "spec.run.batch_size"


def test_a_space_of_which_few_points_are_valid_is_checked_with_one_of_them() -> None:
    names = ("optimizer.params.lr", "optimizer.params.weight_decay")
    parameters = [{"name": name, "float_range": {"low": 0, "high": 1}} for name in names]
    # About one of 10,000 random points is valid, and none of those that the seed of the study draws.
    constraint = {"terms": [{"parameter": name, "coefficient": 1} for name in names], "at_most": 0.016}
    changes = {"parameters": parameters, "parameter_constraints": [constraint], "seed": 3}
    study(**changes).check()
    assert completed({**SPEC, "fields": []}, **changes)


def test_metrics_of_constraints_must_be_figures_of_the_run() -> None:
    constraints = [{"metric": "size", "at_most": 1.0}]
    with pytest.raises(InvalidArgument, match="the study needs the metric 'size', but the runs have loss, accuracy"):
        completed(SPEC, outcome_constraints=constraints)
    assert completed(SPEC, outcome_constraints=[{"metric": "loss", "at_most": 1.0}])


def test_a_study_with_few_trials_needs_no_other_limit() -> None:
    assert completed({**SPEC, "budget": {}}, max_trials=3)
