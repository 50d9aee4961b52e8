import numpy as np

from deepseek.search.pareto import pareto_front


def test_the_front_is_what_a_comparison_of_all_pairs_finds() -> None:
    points = np.random.default_rng(1).integers(0, 6, (300, 3)).astype(float)
    dominated = [bool(((points <= one).all(1) & (points < one).any(1)).any()) for one in points]
    assert pareto_front(points.tolist()) == [index for index, is_dominated in enumerate(dominated) if not is_dominated]


def test_infinite_values_are_compared_and_no_points_have_no_front() -> None:
    assert pareto_front([]) == []
    assert pareto_front([(np.inf, 1.0), (2.0, 1.0), (3.0, 0.0)]) == [1, 2]


def test_with_one_objective_the_front_is_all_that_is_best() -> None:
    assert pareto_front([(2.0,), (1.0,), (3.0,), (1.0,)]) == [1, 3]
