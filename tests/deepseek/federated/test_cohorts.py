"""Which nodes a round asks."""

from collections import Counter
from random import Random
from typing import Any

import pytest

from deepseek.federated.cohorts import draw_cohort
from deepseek.federated.run_plan import RunPlan, RunPrivacy, Sampling
from deepseek.federated.strategy import FedAvg
from deepseek.privacy.releases import Release

NODES = tuple(f"SHA256:{i:02}" for i in range(20))


def _plan(sampling: Sampling, seed: int = 0, **changes: Any) -> RunPlan:
    return RunPlan("runs/r", 10, NODES, {"w": (1,)}, "", FedAvg(), sampling=sampling, seed=seed, **changes)


def test_all_nodes_are_asked_in_order() -> None:
    shuffled = list(NODES)
    Random(0).shuffle(shuffled)
    plan = RunPlan("runs/r", 10, tuple(shuffled), {"w": (1,)}, "", FedAvg())
    assert draw_cohort(plan, 1, 1) == NODES


@pytest.mark.parametrize("sampling", [Sampling("uniform", num_nodes=5), Sampling("poisson", rate=0.25)])
def test_public_cohorts_can_be_drawn_again(sampling: Sampling) -> None:
    plan = _plan(sampling)
    cohorts = [draw_cohort(plan, number, 1) for number in range(1, 50)]
    assert cohorts == [draw_cohort(plan, number, 1) for number in range(1, 50)]
    assert len(set(cohorts)) > 40
    assert cohorts[0] != draw_cohort(plan, 1, 2)
    assert cohorts[0] != draw_cohort(_plan(sampling, seed=1), 1, 1)
    assert all(cohort == tuple(sorted(set(cohort))) for cohort in cohorts)


@pytest.mark.parametrize("sampling", [Sampling("uniform", num_nodes=5), Sampling("poisson", rate=0.25)])
def test_public_cohorts_are_fair(sampling: Sampling) -> None:
    plan = _plan(sampling)
    drawn = Counter(node for number in range(4000) for node in draw_cohort(plan, number, 1))
    # 1000 expected each, with a standard deviation of 27.
    assert all(abs(drawn[node] - 1000) < 140 for node in NODES)


def test_uniform_cohorts_have_the_same_size() -> None:
    plan = _plan(Sampling("uniform", num_nodes=7))
    assert {len(draw_cohort(plan, number, 1)) for number in range(100)} == {7}


def test_secret_cohorts_come_from_the_source_of_randomness_alone() -> None:
    privacy = RunPrivacy("client", "budgets/b", Release(1.0, 0.25))
    plan = _plan(Sampling("poisson", rate=0.25), privacy=privacy)
    assert draw_cohort(plan, 1, 1, Random(1)) == draw_cohort(plan, 2, 3, Random(1))
    assert len({draw_cohort(plan, 1, 1) for _ in range(50)}) > 40
    source = Random(2)
    sizes = [len(draw_cohort(plan, 1, 1, source)) for _ in range(4000)]
    # Of a binomial distribution: mean 5 and variance 3.75. A fixed size would have no variance.
    mean = sum(sizes) / len(sizes)
    assert mean == pytest.approx(5, abs=0.15)
    assert sum((size - mean) ** 2 for size in sizes) / len(sizes) == pytest.approx(3.75, rel=0.12)
