"""NSGA-II finds the Pareto front of a problem whose front is known."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
import pytest

from common.errors import InvalidArgument
from deepseek.nas.evolution import Evolution
from deepseek.nas.transformer_space import TransformerSpace, TransformerSpec

SPACE = TransformerSpace(widths=tuple(range(8, 136, 8)), depths=(4,), heads=(1, 2, 4), mlp_ratios=(1, 2, 4))


def values(spec: TransformerSpec) -> list[float]:
    """The fewer heads, the better; wide is good for the first objective and bad for the second."""
    heads = sum(layer.heads for layer in spec.layers)
    return [float(spec.width - 20 * heads), float(spec.width + 20 * heads)]


def evolve(population: int, generations: int, seed: int, **options: Any) -> Evolution[TransformerSpec]:
    evolution = Evolution(SPACE, maximized=(True, False), population=population, seed=seed, **options)
    for _ in range(population * generations):
        proposal = evolution.ask()
        evolution.tell(proposal, values(proposal.spec))
    return evolution


def best_possible(found: Sequence[tuple[TransformerSpec, Any]]) -> int:
    return sum(all(layer.heads == 1 for layer in spec.layers) for spec, _ in found)


def test_evolution_comes_closer_to_the_front_than_random_networks() -> None:
    front = evolve(20, 15, seed=0).front()
    rng = np.random.default_rng(0)
    random = [(spec, values(spec)) for spec in (SPACE.sample(rng) for _ in range(300))]
    widths = {spec.width for spec, _ in front if best_possible([(spec, None)])}
    assert best_possible(front) > len(front) / 2
    assert len(widths) > len({spec.width for spec, _ in random if best_possible([(spec, None)])})


def test_the_same_seed_and_values_give_the_same_networks() -> None:
    fronts = [evolve(6, 4, seed=3).front() for _ in range(2)]
    assert fronts[0] == fronts[1] != evolve(6, 4, seed=4).front()


def test_the_first_generation_begins_with_the_given_networks() -> None:
    rng = np.random.default_rng(0)
    first = [SPACE.sample(rng) for _ in range(3)]
    evolution = Evolution(SPACE, maximized=(True,), population=4, seed=0, first=first)
    assert [evolution.ask().spec for _ in range(3)] == first
    assert evolution.front() == []


def test_a_proposal_that_is_refused_or_not_finite_is_no_parent() -> None:
    evolution = Evolution(SPACE, maximized=(True, False), population=4, seed=0)
    good = evolution.ask()
    evolution.tell(good, [1.0, 1.0])
    for bad in ([math.nan, 0.0], [math.inf, 0.0], [5.0, -math.inf]):
        evolution.tell(evolution.ask(), bad)
    evolution.refuse(evolution.ask())
    assert evolution.front() == [(good.spec, (1.0, 1.0))]
    nothing = Evolution(SPACE, maximized=(True,), population=2, seed=0)
    nothing.tell(nothing.ask(), [math.nan])
    assert nothing.front() == []


@pytest.mark.parametrize("failed", [(), (3,), (2, 3)])
def test_the_first_generation_has_children_even_if_trainings_fail(failed: Sequence[int]) -> None:
    rng = np.random.default_rng(0)
    first = [SPACE.spec({**SPACE.genes(SPACE.sample(rng)), "width": 64}) for _ in range(6)]
    evolution = Evolution(SPACE, maximized=(True, False), population=6, seed=0, first=first)
    for proposal in [evolution.ask() for _ in range(6)]:
        evolution.tell(proposal, [math.nan] * 2 if proposal.number in failed else values(proposal.spec))
    # Random networks rarely have this width; children have that of their parents unless it mutates.
    children = [evolution.ask().spec for _ in range(6)]
    assert sum(spec.width == 64 for spec in children) >= 4


def test_optuna_is_silent_and_its_verbosity_is_kept(caplog: pytest.LogCaptureFixture) -> None:
    verbosity = optuna.logging.get_verbosity()
    optuna.logging.enable_propagation()
    try:
        with caplog.at_level(logging.DEBUG):
            evolve(4, 2, seed=0)
    finally:
        optuna.logging.disable_propagation()
    assert not caplog.records
    assert optuna.logging.get_verbosity() == verbosity


@pytest.mark.parametrize(("options", "field"), [({"population": 1}, "population"), ({"maximized": ()}, "maximized")])
def test_a_population_of_one_and_no_objectives_are_refused(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Evolution(SPACE, **{"maximized": (True,), "population": 4, "seed": 0, **options})
    assert caught.value.field == field
