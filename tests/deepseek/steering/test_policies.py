"""What the built-in policies do to the learning rate and the momentum."""

import json
import math
from collections.abc import Sequence
from typing import Any

import pytest

from common.errors import InvalidArgument
from deepseek.steering.making import make_policy
from deepseek.steering.policies import Cosine, LegacyThreshold, OneCycle, Plateau
from deepseek.steering.policy import Adjustment, Curve, Observation, Policy, checked, policy_name

STEPS = 10  # per epoch


def observed(epoch: int, rate: float, num_epochs: int, *, momentum: float | None = 0.9, **figures: Any) -> Observation:
    return Observation(epoch, num_epochs, epoch * STEPS, num_epochs * STEPS, rate, momentum, **figures)


def rates(policy: Policy, losses: Sequence[float | None], rate: float = 1.0, num_epochs: int = 1000) -> list[float]:
    """The rate of each epoch, if the evaluation before it had this loss; None before the first one."""
    found = []
    for epoch, loss in enumerate(losses):
        figures = {} if loss is None else {"loss": loss}
        adjustment = checked(policy.decide(observed(epoch, rate, num_epochs, validation=figures)), policy, 1.0)
        rate = adjustment.learning_rate if adjustment and adjustment.learning_rate else rate
        found.append(rate)
    return found


def test_a_plateau_lowers_the_rate_after_its_patience_and_then_waits() -> None:
    policy = Plateau(patience=2, cooldown=2, smoothing=0.0, anneal=0.0)
    losses = [None, 1.0, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5]
    assert rates(policy, losses) == [1, 1, 1, 1, 0.5, 0.5, 0.5, 0.5, 0.25, 0.25]


def test_a_plateau_counts_improvements_by_their_share_so_small_losses_may_still_fall() -> None:
    falling = [2e-4 * 0.9**i for i in range(30)]  # too fast to raise the rate
    assert set(rates(Plateau(patience=2, anneal=0.0), falling)) == {1.0}
    barely = [1 - 1e-4 * i for i in range(30)]
    assert rates(Plateau(patience=2, anneal=0.0), barely)[-1] < 0.1


def test_a_plateau_after_a_warm_up_keeps_the_rate_that_the_schedule_has_reached() -> None:
    policy = Plateau(patience=2, anneal=0.0)
    for epoch, rate in enumerate((0.0001, 0.05, 0.1, 0.1)):
        assert policy.decide(observed(epoch, rate, 1000, validation={"loss": 0.5**epoch})) is None


def test_a_plateau_smooths_so_that_one_lucky_epoch_does_not_hide_it() -> None:
    noisy = [1.0, *[1.0, 0.97] * 12]
    assert rates(Plateau(patience=3, smoothing=0.9, anneal=0.0), noisy)[-1] < 1


def test_a_plateau_goes_no_lower_than_its_floor() -> None:
    found = rates(Plateau(patience=1, cooldown=0, floor=0.1, anneal=0.0), [1.0] * 50)
    assert found[-1] == pytest.approx(0.1)
    assert found == sorted(found, reverse=True)


def test_slow_but_steady_progress_raises_the_rate_up_to_its_ceiling_and_no_longer_than_it_lasts() -> None:
    steady = [0.98**i for i in range(30)]
    policy = Plateau(patience=3, growth=1.5, ceiling=10.0, smoothing=0.0, anneal=0.0)
    found = rates(policy, steady)
    assert found[:5] == [1.0, 1.0, 1.0, 1.5, 2.25]
    assert found[-1] == 10.0
    assert rates(Plateau(growth=1.0, anneal=0.0), steady)[-1] == 1.0
    policy = Plateau(patience=3, growth=1.5, smoothing=0.0, anneal=0.0)
    worse = rates(policy, [*steady[:6], 1.0, 1.0, 1.0])
    assert worse[5] > 1
    assert worse[5:] == pytest.approx([worse[5]] * 3 + [worse[5] / 2])


def test_a_plateau_without_evaluation_watches_the_training_loss() -> None:
    policy, rate = Plateau(patience=1, cooldown=0, anneal=0.0), 1.0
    for epoch in range(6):
        made = policy.decide(observed(epoch, rate, 1000, train_loss=None if epoch == 0 else 1.0))
        rate = made.learning_rate if made and made.learning_rate else rate
    assert rate < 1


def test_a_loss_that_is_nan_counts_as_no_improvement_and_is_not_remembered() -> None:
    policy = Plateau(patience=2, cooldown=0, anneal=0.0)
    assert rates(policy, [1.0, math.nan, math.nan, math.nan])[-1] == 0.5
    assert all(value is None or math.isfinite(value) for value in policy.state().values())


def test_a_figure_of_which_more_is_better_may_be_watched() -> None:
    policy = Plateau("accuracy", True, patience=1, cooldown=0, smoothing=0.0, anneal=0.0)
    made = [policy.decide(observed(i, 1.0, 1000, validation={"accuracy": x})) for i, x in enumerate([0.5, 0.8, 0.8])]
    assert made == [None, None, Adjustment(0.5)]


def test_a_plateau_anneals_the_rate_at_the_end_of_the_run() -> None:
    found = rates(Plateau(anneal=0.5, floor=1e-3), [0.8**i for i in range(10)], num_epochs=10)
    assert found[:5] == [1.0] * 5
    assert found[5:] == pytest.approx([0.9, 0.7, 0.5, 0.3, 0.1])


def test_a_plateau_that_was_stored_goes_on_as_if_it_had_not_been() -> None:
    losses = [1.0, 0.9, 0.9, 0.9, 0.91, 0.92, 0.9, 0.9, 0.9, 0.9, 0.9, 0.9]
    whole = rates(Plateau(), losses, num_epochs=12)
    policy, rate, found = Plateau(), 1.0, []
    for epoch, loss in enumerate(losses):
        made = policy.decide(observed(epoch, rate, 12, validation={"loss": loss}))
        rate = made.learning_rate if made and made.learning_rate else rate
        found.append(rate)
        stored = json.loads(json.dumps(policy.state()))
        policy = Plateau()
        policy.load(stored)
    assert found == whole


@pytest.mark.parametrize(
    ("name", "params", "field"),
    [
        ("plateau", {"factor": 1.0}, "factor"),
        ("plateau", {"factor": 0.0}, "factor"),
        ("plateau", {"factor": math.nan}, "factor"),
        ("plateau", {"patience": 0}, "patience"),
        ("plateau", {"cooldown": -1}, "cooldown"),
        ("plateau", {"growth": 0.9}, "growth"),
        ("plateau", {"ceiling": math.inf}, "ceiling"),
        ("plateau", {"threshold": 0.0}, "threshold"),
        ("plateau", {"floor": 0.0}, "floor"),
        ("plateau", {"anneal": 1.5}, "anneal"),
        ("plateau", {"smoothing": 1.0}, "smoothing"),
        ("cosine", {"final": -1.0}, "final"),
        ("one_cycle", {"max_momentum": 1.0}, "max_momentum"),
        ("one_cycle", {"pct_start": 2.0}, "pct_start"),
    ],
)
def test_a_parameter_out_of_its_range_is_refused(name: str, params: dict[str, float], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        make_policy(name, params, field="spec.policy")
    assert caught.value.field == f"spec.policy.params.{field}"


def test_the_legacy_rule_multiplies_as_it_always_did() -> None:
    found = rates(LegacyThreshold(), [None, *[0.9] * 5, 0.9, 0.8, 0.5])
    factors = [after / before for before, after in zip([1.0, *found], found, strict=False)]
    assert factors == pytest.approx([1.2] * 5 + [0.7, 0.7, 0.95, 0.95])
    assert rates(LegacyThreshold(), [None, *[1.0] * 24], rate=0.003)[-1] == pytest.approx(6e-6, rel=0.01)


def at(policy: Curve, step: int, start: Observation) -> Adjustment:
    return policy.at(start, step)


def test_cosine_falls_from_wherever_it_begins_to_the_end_of_the_run() -> None:
    start = observed(2, 0.4, 10)
    policy = Cosine(final=0.5)
    found = [at(policy, step, start).learning_rate for step in (20, 60, 100)]
    assert found == pytest.approx([0.4, 0.3, 0.2])
    assert at(policy, 20, start).momentum is None


def test_one_cycle_raises_the_rate_while_it_lowers_the_momentum_and_then_the_other_way_round() -> None:
    start = observed(0, 0.5, 10)
    policy = OneCycle(pct_start=0.5)
    values = [at(policy, step, start) for step in range(100)]
    peak = max(range(100), key=lambda i: values[i].learning_rate or 0)
    assert values[peak].learning_rate == pytest.approx(0.5)
    assert values[peak].momentum == pytest.approx(0.85)
    assert values[0].learning_rate == pytest.approx(0.5 / 25)
    assert [values[i].momentum for i in (0, 99)] == pytest.approx([0.95, 0.95])
    assert at(policy, 50, observed(0, 0.5, 10, momentum=None)).momentum is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -1.0, "fast", True, None, [1.0], 1e4, 1e-7])
def test_a_rate_that_is_no_positive_number_or_out_of_bounds_is_refused(value: Any) -> None:
    policy = LegacyThreshold()
    if value is None:
        assert checked(Adjustment(None), policy, 1.0) == Adjustment(None)
        return
    with pytest.raises(InvalidArgument, match="learning_rate"):
        checked(Adjustment(value), policy, 1.0)


@pytest.mark.parametrize("value", [math.nan, -0.1, 1.0, "much"])
def test_a_momentum_that_would_never_forget_is_refused(value: Any) -> None:
    with pytest.raises(InvalidArgument, match="momentum"):
        checked(Adjustment(momentum=value), LegacyThreshold(), 1.0)


def test_what_is_no_adjustment_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="returned float, not an Adjustment"):
        checked(0.5, LegacyThreshold(), 1.0)


def test_names_may_have_hyphens() -> None:
    assert isinstance(make_policy(policy_name("one-cycle"), {}), OneCycle)
    assert isinstance(make_policy(policy_name("legacy-threshold"), {}), LegacyThreshold)
