import random

import pytest

from deepseek.search.space import Choices, FloatRange, IntegerRange, LinearConstraint, ParameterSpec, Space
from tests.deepseek.search.specs import CONDITIONAL, CONSTRAINED, MIXED, STEPPED


@pytest.mark.parametrize("space", [MIXED, CONDITIONAL, STEPPED, CONSTRAINED])
def test_random_points_are_points_of_the_space(space: Space) -> None:
    source = random.Random(3)
    for _ in range(200):
        point = space.draw(source)
        assert point is not None
        assert space.problem(point) == ""


def test_a_parameter_is_missing_where_its_conditions_do_not_hold() -> None:
    assert CONDITIONAL.problem({"optimizer": "adam", "depth": 2}) == ""
    assert "momentum" in CONDITIONAL.problem({"optimizer": "adam", "depth": 2, "momentum": 0.5})
    assert "momentum is missing" in CONDITIONAL.problem({"optimizer": "sgd", "depth": 2})
    assert "dropout is missing" in CONDITIONAL.problem({"optimizer": "adam", "depth": 3})


def test_a_condition_on_a_parameter_that_is_missing_does_not_hold() -> None:
    drawn = [CONDITIONAL.draw(random.Random(seed)) for seed in range(100)]
    with_nesterov = [point for point in drawn if point and "nesterov" in point]
    assert with_nesterov
    assert all(point["optimizer"] == "sgd" and float(point["momentum"]) >= 0.4 for point in with_nesterov)


def test_values_off_the_scale_are_found() -> None:
    point = {"rate": 1e-3, "share": 0.5, "width": 64, "depth": 3, "optimizer": "sgd"}
    assert MIXED.problem(point) == ""
    for change in ({"depth": 4}, {"rate": 0.2}, {"width": 64.5}, {"optimizer": "lion"}, {"share": "0.5"}):
        assert MIXED.problem({**point, **change}) != ""


def test_the_greatest_value_is_a_whole_number_of_steps_above_the_lowest() -> None:
    assert FloatRange(0.0, 1.0, step=0.3).greatest == 0.9
    assert FloatRange(0.1, 0.7, step=0.1).greatest == 0.7
    assert IntegerRange(1, 10, step=4).greatest == 9
    assert FloatRange(0.0, 1.0, step=0.25).values() == (0.0, 0.25, 0.5, 0.75, 1.0)


def test_points_are_all_combinations_that_satisfy_the_constraints() -> None:
    points = STEPPED.points(100)
    assert points is not None
    assert len(points) == 30
    assert len({tuple(point.items()) for point in points}) == 30
    constrained = Space(STEPPED.parameters, (LinearConstraint((("depth", 1.0),), 2.0),)).points(100)
    assert constrained is not None
    assert len(constrained) == 20


def test_points_are_not_listed_if_there_are_too_many() -> None:
    assert STEPPED.points(29) is None
    assert MIXED.points(10_000) is None
    huge = Space(tuple(ParameterSpec(f"p{i}", Choices((1, 2, 3))) for i in range(500)))
    assert huge.points(10_000) is None


def test_a_missing_parameter_counts_as_zero_in_a_constraint() -> None:
    constraint = LinearConstraint((("momentum", 1.0), ("depth", 0.1)), 0.5)
    assert constraint.holds({"depth": 4})
    assert not constraint.holds({"depth": 4, "momentum": 0.2})
