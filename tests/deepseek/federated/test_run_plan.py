"""Plans that are refused before anything is sent."""

from dataclasses import replace
from typing import Any

import pytest

from common.errors import FailedPrecondition, MeshError
from deepseek.federated.arrays import max_bytes
from deepseek.federated.fit_settings import FitSettings
from deepseek.federated.run_plan import RunPlan, RunPrivacy, Sampling, UpdateLimits
from deepseek.federated.strategy import strategy_from_spec
from deepseek.privacy.releases import Release
from deepseek.training.dp_settings import DpSgd

PRIVATE = RunPrivacy("client", "budgets/b", Release(1.0))


def _plan(**changes: Any) -> RunPlan:
    settings: dict[str, Any] = {
        "run": "runs/r",
        "num_rounds": 3,
        "nodes": ("a", "b", "c", "d"),
        "shapes": {"w": (1,)},
        "initial_model": "",
        "strategy": strategy_from_spec("fedavg"),
    }
    return RunPlan(**{**settings, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"quorum": 4},
        {"quorum": 0},
        {"sampling": Sampling("uniform", num_nodes=2), "quorum": 2},
        {"sampling": Sampling("poisson", rate=0.5), "quorum": 2},
        {"privacy": PRIVATE},
        {
            "privacy": RunPrivacy("client", "b", Release(1.0, 0.1)),
            "sampling": Sampling("poisson", rate=0.1),
            "quorum": 4,
        },
        {"privacy": RunPrivacy("client", "b", Release(1.0, 0.5)), "sampling": Sampling("poisson", rate=0.5)},
        {
            "privacy": RunPrivacy("example", "b", Release(1.0, 0.1, 20)),
            "task": {"fit": FitSettings(local_epochs=2, dp_sgd=DpSgd(1.0, 1.0, 16, 0.1)).to_json()},
            "strategy": strategy_from_spec("median"),
        },
    ],
)
def test_good_plans_are_accepted(changes: dict[str, Any]) -> None:
    _plan(**changes).check()


@pytest.mark.parametrize(
    ("sampling", "max_cohort"),
    [
        (Sampling(), 10_000),
        (Sampling("uniform", num_nodes=50), 50),
        (Sampling("poisson", rate=0.01), 160),  # 100 expected, and six times the square root of 99 more
        (Sampling("poisson", rate=1.0), 10_000),
    ],
)
def test_a_round_whose_updates_would_not_fit_into_memory_is_refused(sampling: Sampling, max_cohort: int) -> None:
    shapes, nodes = {"w": (1000, 1000)}, tuple(f"n{i:05}" for i in range(10_000))
    plan = _plan(nodes=nodes, shapes=shapes, sampling=sampling, quorum=0)
    assert plan.max_cohort == max_cohort
    needed = max_cohort * max_bytes(shapes)
    replace(plan, max_round_bytes=needed).check_memory()
    with pytest.raises(FailedPrecondition, match=rf"{max_cohort} nodes for updates of 4.0 MB each") as caught:
        replace(plan, max_round_bytes=needed - 1).check_memory()
    assert (caught.value.reason, caught.value.field) == ("ROUND_TOO_LARGE", "sampling")


def test_a_round_that_adds_noise_to_a_sum_needs_no_memory_for_every_node() -> None:
    shapes, nodes = {"w": (1000, 1000)}, tuple(f"n{i:05}" for i in range(10_000))
    plan = _plan(nodes=nodes, shapes=shapes, privacy=PRIVATE)
    replace(plan, max_round_bytes=7 * max_bytes(shapes)).check_memory()
    with pytest.raises(FailedPrecondition):
        replace(plan, max_round_bytes=6 * max_bytes(shapes)).check_memory()


def test_a_hidden_cohort_leaves_time_to_add_the_last_update() -> None:
    hidden = _plan(privacy=RunPrivacy("client", "b", Release(1.0, 0.5)), sampling=Sampling("poisson", rate=0.5))
    assert _plan(privacy=PRIVATE).closing_s == 0
    assert [replace(hidden, deadline_s=seconds).closing_s for seconds in (2.0, 600.0)] == [0.2, 1.0]
    assert replace(hidden, shapes={"w": (10_000, 10_000)}).closing_s == pytest.approx(20)
    assert replace(hidden, shapes={"w": (10_000, 10_000)}, deadline_s=10.0).closing_s == 5


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"nodes": ()}, "NO_NODES", "sampling"),
        ({"num_rounds": 0}, "BAD_VALUE", "num_rounds"),
        ({"deadline_s": 0.0}, "BAD_VALUE", "deadline_s"),
        ({"deadline_s": float("nan")}, "BAD_VALUE", "deadline_s"),
        ({"deadline_s": float("inf")}, "BAD_VALUE", "deadline_s"),
        ({"max_retries": -1}, "BAD_VALUE", "max_retries"),
        ({"quorum": -1}, "BAD_VALUE", "quorum"),
        ({"limits": UpdateLimits(max_update_norm=float("nan"))}, "BAD_VALUE", "max_update_norm"),
        ({"quorum": 5}, "QUORUM_TOO_LARGE", "quorum"),
        ({"quorum": 3, "sampling": Sampling("uniform", num_nodes=2)}, "QUORUM_TOO_LARGE", "quorum"),
        ({"quorum": 3, "sampling": Sampling("poisson", rate=0.5)}, "QUORUM_TOO_LARGE", "quorum"),
        (
            {
                "quorum": 5,
                "privacy": RunPrivacy("client", "b", Release(1.0, 0.5)),
                "sampling": Sampling("poisson", rate=0.5),
            },
            "QUORUM_TOO_LARGE",
            "quorum",
        ),
        ({"sampling": Sampling("uniform", num_nodes=5)}, "TOO_FEW_NODES", "sampling.num_nodes"),
        ({"sampling": Sampling("uniform", num_nodes=0)}, "TOO_FEW_NODES", "sampling.num_nodes"),
        ({"sampling": Sampling("poisson", rate=0.0)}, "BAD_RATE", "sampling.rate"),
        ({"sampling": Sampling("poisson", rate=1.5)}, "BAD_RATE", "sampling.rate"),
        ({"privacy": RunPrivacy("client", "b", Release(0.0))}, "BAD_NOISE", "privacy.noise_multiplier"),
        ({"privacy": RunPrivacy("example", "b", Release(0.0))}, "BAD_NOISE", "privacy.noise_multiplier"),
        ({"privacy": RunPrivacy("client", "b", Release(1.0), 0.0)}, "BAD_VALUE", "privacy.clip_norm"),
        ({"privacy": RunPrivacy("client", "b", Release(1.0), float("nan"))}, "BAD_VALUE", "privacy.clip_norm"),
        ({"privacy": PRIVATE, "strategy": strategy_from_spec("median")}, "STRATEGY_NOT_PRIVATE", "strategy.name"),
        ({"privacy": PRIVATE, "strategy": strategy_from_spec("trimmed_mean")}, "STRATEGY_NOT_PRIVATE", "strategy.name"),
        (
            {"privacy": PRIVATE, "sampling": Sampling("uniform", num_nodes=2)},
            "SAMPLING_NOT_PRIVATE",
            "sampling.num_nodes",
        ),
    ],
)
def test_bad_plans_are_refused_with_reason_and_field(changes: dict[str, Any], reason: str, field: str) -> None:
    with pytest.raises(MeshError) as caught:
        _plan(**changes).check()
    assert (caught.value.reason, caught.value.field) == (reason, field)


@pytest.mark.parametrize(
    "fit",
    [
        {},
        FitSettings(local_epochs=2).to_json(),
        FitSettings(local_epochs=3, dp_sgd=DpSgd(1.0, 1.0, 16, 0.1)).to_json(),
        FitSettings(local_epochs=2, dp_sgd=DpSgd(0.9, 1.0, 16, 0.1)).to_json(),
        FitSettings(local_epochs=2, dp_sgd=DpSgd(1.0, 1.0, 16, 0.11)).to_json(),
    ],
)
def test_nodes_that_would_release_something_else_than_is_debited_are_not_asked(fit: dict[str, Any]) -> None:
    plan = _plan(privacy=RunPrivacy("example", "b", Release(1.0, 0.1, 20)), task={"fit": fit})
    with pytest.raises(FailedPrecondition, match="nodes would release") as caught:
        plan.check()
    assert (caught.value.reason, caught.value.field) == ("ACCOUNTING_CHANGED", "privacy")


@pytest.mark.parametrize("rate", [1.0, 0.25])
def test_accounting_that_does_not_match_the_sampling_is_a_bug(rate: float) -> None:
    privacy = RunPrivacy("client", "b", Release(1.0, rate))
    with pytest.raises(AssertionError):
        _plan(privacy=privacy, sampling=Sampling("poisson", rate=0.5)).check()
