"""Strategies against independent computations, and their parameters."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from scipy import stats

from common.errors import InvalidArgument
from deepseek.federated.aggregation import WeightedUpdate
from deepseek.federated.arrays import Arrays, all_finite, shapes_of
from deepseek.federated.strategy import STRATEGIES, FedAvg, FedProx, Strategy, strategy_from_spec

RANDOM = np.random.default_rng(0)
MODEL = {"b": np.float32(0.25).reshape(()), "w": RANDOM.normal(size=(3, 2)).astype(np.float32)}
HUGE = float(np.finfo(np.float32).max)


def _updates(num: int) -> list[WeightedUpdate]:
    return [
        WeightedUpdate(
            f"SHA256:{i:02}",
            {name: RANDOM.normal(size=array.shape).astype(np.float32) for name, array in MODEL.items()},
            int(RANDOM.integers(1, 50)),
        )
        for i in range(num)
    ]


def _column(updates: list[WeightedUpdate], name: str) -> npt.NDArray[np.float64]:
    return np.stack([update.arrays[name].astype(np.float64) for update in updates])


def aggregate(
    strategy: Strategy, model: Arrays, updates: Sequence[WeightedUpdate], state: bytes
) -> tuple[Arrays, bytes]:
    """Returns the next model and the next state."""
    return strategy.apply(model, strategy.combine(updates, shapes_of(model)), state)


@pytest.fixture(params=sorted(STRATEGIES))
def strategy(request: pytest.FixtureRequest) -> Strategy:
    return strategy_from_spec(request.param)


def test_any_order_of_arrival_gives_the_same_bytes(strategy: Strategy) -> None:
    # Sums of numbers whose sizes differ depend on the order of the additions.
    updates = [
        WeightedUpdate(one.node, {name: array * np.float32(1e-7**i) for name, array in one.arrays.items()}, 1 + i)
        for i, one in enumerate(_updates(5))
    ]
    expected_mean = strategy.combine(updates, shapes_of(MODEL))
    expected_model, expected_state = aggregate(strategy, MODEL, updates, b"")
    for order in itertools.permutations(updates):
        mean = strategy.combine(order, shapes_of(MODEL))
        assert all(mean[name].tobytes() == expected_mean[name].tobytes() for name in MODEL)
        model, state = aggregate(strategy, MODEL, order, b"")
        assert all(model[name].tobytes() == expected_model[name].tobytes() for name in MODEL)
        assert state == expected_state


def test_results_look_like_the_model(strategy: Strategy) -> None:
    model, _ = aggregate(strategy, MODEL, _updates(4), b"")
    assert shapes_of(model) == shapes_of(MODEL)
    assert {array.dtype for array in model.values()} == {np.dtype(np.float32)}


def test_no_update_leaves_the_model_unchanged(strategy: Strategy) -> None:
    model, _ = aggregate(strategy, MODEL, [], b"")
    for name in MODEL:
        np.testing.assert_array_equal(model[name], MODEL[name])


def test_huge_updates_give_a_finite_model(strategy: Strategy) -> None:
    huge = [
        WeightedUpdate(str(i), {name: np.full_like(array, HUGE) for name, array in MODEL.items()}, 9) for i in range(3)
    ]
    model, state = MODEL, b""
    for _ in range(3):
        model, state = aggregate(strategy, model, huge, state)  # type: ignore[assignment]
        assert all_finite(model)


def test_fedavg_is_the_weighted_mean_with_a_cap() -> None:
    updates = _updates(6)
    weights = [min(update.num_examples, 20) for update in updates]
    model, state = aggregate(
        strategy_from_spec("fedavg", {"weight_cap": 20, "server_learning_rate": 0.5}), MODEL, updates, b""
    )
    for name, array in MODEL.items():
        expected = array + 0.5 * np.average(_column(updates, name), axis=0, weights=weights)
        np.testing.assert_allclose(model[name], expected, rtol=1e-6)
    assert state == b""


def test_a_claim_of_many_examples_gains_nothing_above_the_cap() -> None:
    updates = _updates(3)
    strategy = FedAvg(weight_cap=100)
    claimed = [updates[0], updates[1], WeightedUpdate(updates[2].node, updates[2].arrays, 10**9)]
    honest = [updates[0], updates[1], WeightedUpdate(updates[2].node, updates[2].arrays, 100)]
    assert (
        aggregate(strategy, MODEL, claimed, b"")[0]["w"].tolist()
        == aggregate(strategy, MODEL, honest, b"")[0]["w"].tolist()
    )


@pytest.mark.parametrize("name", ["fedavg", "fedprox", "fedadam"])
@pytest.mark.parametrize("num_honest", [1, 2, 9])
def test_a_node_that_claims_many_examples_has_a_bounded_multiple_of_the_median_weight(
    name: str, num_honest: int
) -> None:
    """Among nodes of 45 examples, a claim of 10,000 weighs like 450; by `weight_cap` alone, it had over 95 %."""
    ones = {"w": np.ones(1, np.float32)}
    updates = [WeightedUpdate(str(i), {"w": np.zeros(1, np.float32)}, 45) for i in range(num_honest)]
    updates.append(WeightedUpdate("liar", ones, 10_000))
    share = float(strategy_from_spec(name).combine(updates, {"w": (1,)})["w"][0])
    assert share == pytest.approx(10 / (10 + num_honest))
    equal = strategy_from_spec(name, {"max_weight_ratio": 1}).combine(updates, {"w": (1,)})
    assert float(equal["w"][0]) == pytest.approx(1 / (1 + num_honest))


def test_honest_nodes_of_different_sizes_keep_their_weights() -> None:
    updates = [WeightedUpdate(str(size), {"w": np.float32([size])}, size) for size in (20, 50, 80, 400)]
    mean = FedAvg().combine(updates, {"w": (1,)})
    sizes = np.array([20, 50, 80, 400])
    assert float(mean["w"][0]) == pytest.approx(np.average(sizes, weights=sizes))


def test_fedprox_is_fedavg_on_the_server_and_a_term_on_the_nodes() -> None:
    updates = _updates(3)
    proximal = strategy_from_spec("fedprox", {"proximal_mu": 0.3})
    assert proximal.fit_options() == {"proximal_mu": 0.3}
    assert (
        aggregate(proximal, MODEL, updates, b"")[0]["w"].tolist()
        == aggregate(FedAvg(), MODEL, updates, b"")[0]["w"].tolist()
    )


def test_fedadam_follows_algorithm_2_over_several_rounds() -> None:
    eta, beta_1, beta_2, tau = 0.05, 0.8, 0.95, 1e-2
    strategy = strategy_from_spec(
        "fedadam", {"server_learning_rate": eta, "beta_1": beta_1, "beta_2": beta_2, "tau": tau, "weight_cap": 1}
    )
    x = {name: array.astype(np.float64) for name, array in MODEL.items()}
    m = {name: np.zeros(array.shape) for name, array in MODEL.items()}
    v = {name: np.full(array.shape, tau**2) for name, array in MODEL.items()}
    model: Any = MODEL
    state = b""
    for _ in range(6):
        updates = _updates(4)
        model, state = aggregate(strategy, model, updates, state)
        for name in MODEL:
            delta = _column(updates, name).mean(axis=0)
            m[name] = beta_1 * m[name] + (1 - beta_1) * delta
            v[name] = beta_2 * v[name] + (1 - beta_2) * delta**2
            x[name] = x[name] + eta * m[name] / (np.sqrt(v[name]) + tau)
            np.testing.assert_allclose(model[name], x[name], rtol=1e-5, atol=1e-6)


def test_fedadam_refuses_a_state_of_another_model() -> None:
    strategy = strategy_from_spec("fedadam")
    _, state = aggregate(strategy, {"w": np.zeros(3, np.float32)}, [], b"")
    with pytest.raises(InvalidArgument, match="strategy_state"):
        aggregate(strategy, MODEL, [], state)


@pytest.mark.parametrize(("num", "share", "left_out"), [(10, 0.2, 2), (10, 0.3, 3), (9, 0.0, 0), (30, 0.1, 3)])
def test_the_trimmed_mean_is_that_of_scipy(num: int, share: float, left_out: int) -> None:
    updates = _updates(num)
    model, _ = aggregate(strategy_from_spec("trimmed_mean", {"share": share}), MODEL, updates, b"")
    for name, array in MODEL.items():
        expected = array + stats.trim_mean(_column(updates, name), left_out / num + 1e-9, axis=0)
        np.testing.assert_allclose(model[name], expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("num", "left_out"), [(1, 0), (2, 0), (3, 1), (4, 1), (5, 1), (6, 2)])
def test_the_trimmed_mean_of_few_nodes_leaves_out_at_least_the_share(num: int, left_out: int) -> None:
    updates = [WeightedUpdate(str(i), {"w": np.float32([i**2])}) for i in range(num)]
    model, _ = aggregate(
        strategy_from_spec("trimmed_mean", {"share": 0.2}), {"w": np.zeros(1, np.float32)}, updates, b""
    )
    kept = [i**2 for i in range(num)][left_out : num - left_out]
    assert model["w"][0] == pytest.approx(np.mean(kept))


@pytest.mark.parametrize("num", [1, 2, 5, 8])
def test_the_median_is_that_of_numpy(num: int) -> None:
    updates = _updates(num)
    model, _ = aggregate(strategy_from_spec("median"), MODEL, updates, b"")
    for name, array in MODEL.items():
        np.testing.assert_allclose(model[name], array + np.median(_column(updates, name), axis=0), rtol=1e-6)


@pytest.mark.parametrize(("name", "num_liars"), [("trimmed_mean", 2), ("median", 4)])
def test_robust_strategies_tolerate_wrong_updates(name: str, num_liars: int) -> None:
    honest = _updates(9 - num_liars)
    liars = [
        WeightedUpdate(f"liar{i}", {key: np.full_like(array, HUGE) for key, array in MODEL.items()}, 10**9)
        for i in range(num_liars)
    ]
    model, _ = aggregate(strategy_from_spec(name), MODEL, [*honest, *liars], b"")
    for key, array in MODEL.items():
        step = model[key] - array
        assert (step >= _column(honest, key).min(axis=0) - 1e-6).all()
        assert (step <= _column(honest, key).max(axis=0) + 1e-6).all()


def test_an_unknown_strategy_lists_the_known_ones() -> None:
    with pytest.raises(InvalidArgument, match="known are fedavg, fedprox, fedadam, trimmed_mean, median") as caught:
        strategy_from_spec("krum")
    assert (caught.value.reason, caught.value.field) == ("UNKNOWN_STRATEGY", "strategy.name")


def test_the_default_strategy_is_fedavg() -> None:
    assert type(strategy_from_spec("", {})) is FedAvg
    assert type(strategy_from_spec("fedprox")) is FedProx


@pytest.mark.parametrize(
    ("name", "params", "message"),
    [
        ("fedavg", {"momentum": 0.9}, "fedavg has no parameter 'momentum'; it has server_learning_rate, weight_cap"),
        ("fedavg", {"self": 1}, "fedavg has no parameter 'self'"),
        ("fedavg", {"server_learning_rate": 0}, "must be above 0 and below 1e\\+06"),
        ("fedavg", {"server_learning_rate": float("nan")}, "is nan; it must be above 0"),
        ("fedavg", {"weight_cap": 0.5}, "must be at least 1 and finite"),
        ("fedadam", {"max_weight_ratio": 0.5}, "must be at least 1 and finite"),
        ("fedavg", {"weight_cap": "many"}, "must be a number"),
        ("fedprox", {"proximal_mu": -1}, "must be at least 0 and finite"),
        ("fedadam", {"beta_1": 1.0}, "must be at least 0 and below 1"),
        ("fedadam", {"tau": 0}, "must be above 0 and finite"),
        ("trimmed_mean", {"share": 0.5}, "must be at least 0 and below 0.5"),
        ("median", {"server_learning_rate": True}, "must be a number"),
    ],
)
def test_bad_parameters_are_refused_with_their_path(name: str, params: dict[str, Any], message: str) -> None:
    with pytest.raises(InvalidArgument, match=message) as caught:
        strategy_from_spec(name, params)
    assert caught.value.reason == "BAD_VALUE"
    assert caught.value.field == f"strategy.params.{next(iter(params))}"


def test_only_means_can_be_private() -> None:
    for name in ("fedavg", "fedprox", "fedadam"):
        strategy_from_spec(name).check_private()
    for name in ("trimmed_mean", "median"):
        with pytest.raises(
            InvalidArgument, match=f"{name} has no bound .* choose one of fedavg, fedprox, fedadam,"
        ) as caught:
            strategy_from_spec(name).check_private()
        assert caught.value.reason == "STRATEGY_NOT_PRIVATE"
