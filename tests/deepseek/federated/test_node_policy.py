"""Which tasks a node refuses."""

from pathlib import Path
from typing import Any

import pytest

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.federated.fit_settings import FitSettings
from deepseek.federated.node_policy import NodePolicy, StepCount
from deepseek.training.dp_settings import DpSgd

POLICY = NodePolicy(min_noise=1.0, max_sampling_rate=0.25, max_steps=12)
FIT = FitSettings(local_epochs=2, dp_sgd=DpSgd(1.0, 1.0, 16, 0.25))


def test_a_policy_that_demands_nothing_allows_everything() -> None:
    NodePolicy().check(FitSettings(), 0)
    NodePolicy.from_json({}).check(FitSettings(dp_sgd=DpSgd(0.1, 1.0, 16, 1.0)), 10**9)


def test_a_task_that_complies_is_allowed() -> None:
    assert FIT.dp_steps == 8
    POLICY.check(FIT, 0)
    POLICY.check(FIT, 4)


@pytest.mark.parametrize(
    ("fit", "num_steps", "field"),
    [
        (FitSettings(), 0, "fit.dp_sgd"),
        (FitSettings(dp_sgd=DpSgd(0.99, 1.0, 16, 0.25)), 0, "fit.dp_sgd.noise_multiplier"),
        (FitSettings(dp_sgd=DpSgd(1.0, 1.0, 16, 0.26)), 0, "fit.dp_sgd.sampling_rate"),
        (FIT, 5, "fit.local_epochs"),
    ],
)
def test_a_task_that_does_not_comply_is_refused_with_its_field(fit: FitSettings, num_steps: int, field: str) -> None:
    with pytest.raises(FailedPrecondition, match=f"^{field}: ") as caught:
        POLICY.check(fit, num_steps)
    assert (caught.value.reason, caught.value.field) == ("NODE_POLICY", field)


@pytest.mark.parametrize(
    ("data", "field"),
    [
        ({"min_noise": -1.0}, "min_noise"),
        ({"min_noise": float("nan")}, "min_noise"),
        ({"min_noise": 1.0, "max_sampling_rate": 0.0}, "max_sampling_rate"),
        ({"min_noise": 1.0, "max_steps": -1}, "max_steps"),
        ({"max_steps": 1}, "min_noise"),
        ({"max_steps": "x"}, "policy.max_steps"),
        ({"ignore_budget": "yes"}, "policy.ignore_budget"),
    ],
)
def test_a_policy_that_means_nothing_is_refused(data: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        NodePolicy.from_json(data)
    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", field)


def test_steps_are_counted_across_restarts(tmp_path: Path) -> None:
    file = tmp_path / "worker" / "dp_steps"
    assert StepCount(file).total == 0
    StepCount(file).add(3)
    StepCount(file).add(4)
    assert StepCount(file).total == 7
    file.write_text("many")
    with pytest.raises(FailedPrecondition, match="unknown how many steps"):
        StepCount(file).add(1)
    assert file.read_text() == "many"
