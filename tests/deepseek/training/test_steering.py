"""Policies that adjust the learning rate and the momentum of a training."""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import InvalidArgument
from deepseek.optim.momentum import momentum_of, set_momentum
from deepseek.steering import Adjustment, Observation, Policy
from deepseek.training import AdjustmentEvent, FitResult, MixedPrecisionTrainer, StepEvent
from deepseek.training.dp_settings import DpSgd
from deepseek.training.events import WarningEvent
from tests.deepseek.steering import user_functions
from tests.deepseek.training.tasks import Classifier, NoisyMomentum, Points, weights

STEPS = 4  # per epoch


def make(policy: Any = None, optimizer: Any = "sgd", *, lr: float = 0.1, **options: Any) -> MixedPrecisionTrainer:
    return MixedPrecisionTrainer(Classifier(), optimizer, "fp32", lr=lr, policy=policy, **options)


def fit(trainer: MixedPrecisionTrainer, epochs: int = 4, **options: Any) -> FitResult:
    return trainer.fit(
        Points(40), epochs=epochs, batch_size=10, evaluation=Points(20), on_event=lambda event: None, **options
    )


def rates(result: FitResult) -> list[float]:
    """The learning rate of the last step of each epoch."""
    return [event.learning_rate for event in result.history if isinstance(event, StepEvent) and not event.step % STEPS]


def warnings_of(result: FitResult) -> list[str]:
    return [event.message for event in result.history if isinstance(event, WarningEvent)]


class Recording(Policy):
    """Remembers what it sees."""

    def __init__(self, decide: Callable[[Observation], Adjustment | None] = lambda seen: None) -> None:
        self.seen: list[Observation] = []
        self._decide = decide

    def decide(self, observation: Observation) -> Adjustment | None:
        self.seen.append(observation)
        return self._decide(observation)


def test_a_policy_decides_before_each_epoch_from_what_came_before() -> None:
    policy = Recording()
    result = fit(make(policy), epochs=3)
    assert [(one.epoch, one.step, one.num_epochs, one.num_steps) for one in policy.seen] == [
        (0, 0, 3, 12),
        (1, 4, 3, 12),
        (2, 8, 3, 12),
    ]
    first, *later = policy.seen
    assert (first.train_loss, dict(first.validation), first.learning_rate, first.momentum) == (None, {}, 0.1, 0.0)
    evaluations = [event.metrics for event in result.history if event.kind == "evaluation"]  # type: ignore[union-attr]
    assert [dict(one.validation) for one in later] == evaluations[:2]
    assert all(one.train_loss is not None and math.isfinite(one.train_loss) for one in later)


def test_the_loss_that_a_policy_sees_is_the_mean_over_the_epoch() -> None:
    policy = Recording()
    trainer = make(policy, lr=1e-12)  # the weights hardly change, so the mean is that of any epoch
    fit(trainer, epochs=2)
    assert policy.seen[1].train_loss == pytest.approx(trainer.evaluate(Points(40))["loss"], rel=1e-6)


def test_the_users_function_runs_as_it_stands() -> None:
    found = rates(fit(make(user_functions.lr_scheduler), epochs=7))
    factors = [after / before for before, after in zip([0.1, *found], found, strict=False)]
    assert factors[:5] == pytest.approx([1.2] * 5)
    assert all(min(abs(factor - one) for one in (0.7, 0.95)) < 1e-9 for factor in factors[5:])


def test_a_change_is_reported_with_old_and_new_values() -> None:
    halves = Recording(lambda seen: Adjustment(seen.learning_rate / 2, 0.8) if seen.epoch == 1 else None)
    result = fit(make(halves, optimizer_params={"momentum": 0.9}))
    (event,) = [event for event in result.history if isinstance(event, AdjustmentEvent)]
    assert (event.step, event.policy) == (STEPS + 1, "Recording")
    assert (event.old.learning_rate, event.old.momentum) == (0.1, 0.9)
    assert (event.new.learning_rate, event.new.momentum) == (0.05, 0.8)


def test_a_set_rate_is_the_rate_with_which_the_weights_are_updated() -> None:
    by_policy, by_hand = make(Recording(lambda seen: Adjustment(0.02)), lr=0.1), make(lr=0.02)
    fit(by_policy)
    fit(by_hand)
    assert torch.equal(weights(by_policy.model), weights(by_hand.model))


@pytest.mark.parametrize("optimizer", ["adamw", "sgd", "nadam"])
def test_a_set_momentum_is_the_momentum_with_which_the_weights_are_updated(optimizer: str) -> None:
    params: dict[str, Any] = {"momentum": 0.5} if optimizer == "sgd" else {"betas": (0.5, 0.999)}
    by_policy = make(Recording(lambda seen: Adjustment(momentum=0.5)), optimizer, lr=0.01)
    by_hand = make(None, optimizer, lr=0.01, optimizer_params=params)
    fit(by_policy)
    fit(by_hand)
    assert momentum_of(by_policy.optimizer) == 0.5
    assert torch.equal(weights(by_policy.model), weights(by_hand.model))


def test_parameter_groups_keep_the_ratio_of_their_rates() -> None:
    model = Classifier()
    first, *rest = model.parameters()
    optimizer = torch.optim.SGD([{"params": [first], "lr": 0.1}, {"params": rest, "lr": 0.3}])
    trainer = MixedPrecisionTrainer(model, optimizer, "fp32", policy=Recording(lambda seen: Adjustment(0.2)))
    fit(trainer, epochs=1)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.2, 0.6])


def test_the_schedule_applies_until_the_policy_first_sets_a_rate() -> None:
    policy = Recording(lambda seen: Adjustment(0.5 * seen.learning_rate) if seen.epoch == 2 else None)
    found = rates(fit(make(policy, schedule="linear")))
    assert found[:2] == pytest.approx(rates(fit(make(schedule="linear")))[:2])
    assert found[2] == found[3] == pytest.approx(0.5 * 0.1 * 0.5)


def test_the_bounds_of_a_policy_relate_to_the_highest_rate_of_the_schedule() -> None:
    policy = Recording(lambda seen: Adjustment(0.9 * seen.learning_rate) if seen.epoch == 2 else None)
    trainer = make(policy, schedule=lambda update, num_updates: 1.0 if update > 4 else 1e-7)
    assert rates(fit(trainer))[2:] == pytest.approx([0.09, 0.09])


def test_a_curve_sets_the_rate_of_every_step() -> None:
    trainer = make("cosine", lr=0.1)
    seen: list[float] = []
    inner = trainer.optimizer.step
    trainer.optimizer.step = lambda *given: (seen.append(trainer.optimizer.param_groups[0]["lr"]), inner(*given))[1]  # type: ignore[assignment,method-assign]
    fit(trainer)
    assert seen == pytest.approx([0.1 * (1 + math.cos(math.pi * i / 16)) / 2 for i in range(16)])


def test_one_cycle_moves_the_momentum_of_adam() -> None:
    trainer = make("one_cycle", "adamw", lr=0.01, policy_params={"pct_start": 0.5})
    fit(trainer)
    assert momentum_of(trainer.optimizer) == pytest.approx(0.95)


@pytest.mark.parametrize(
    "function", ["nan", "infinite", "negative", "zero", "text", "huge"], ids=lambda name: f"returns-{name}"
)
def test_a_policy_that_returns_no_rate_changes_nothing(function: str) -> None:
    undisturbed = make()
    fit(undisturbed)
    trainer = make(getattr(user_functions, function))
    result = fit(trainer)
    (warning,) = warnings_of(result)
    assert f"the policy {function!r} failed before step 1: learning_rate is" in warning
    assert "stay as they are" in warning
    assert torch.equal(weights(trainer.model), weights(undisturbed.model))


def test_a_policy_that_raises_may_decide_again_in_the_next_epoch() -> None:
    result = fit(make(user_functions.raising))
    (warning,) = warnings_of(result)
    assert "failed before step 5: ValueError: no more ideas" in warning
    assert rates(result) == pytest.approx([0.05, 0.05, 0.025, 0.0125])


def test_a_momentum_for_an_optimizer_without_one_is_refused_with_one_warning() -> None:
    result = fit(make(Recording(lambda seen: Adjustment(seen.learning_rate / 2, 0.5)), "adagrad"))
    (warning,) = warnings_of(result)
    assert "sets a momentum, but the optimizer has none" in warning
    assert rates(result) == [0.1] * 4


def test_an_optimizer_of_ones_own_has_a_rate_and_no_momentum() -> None:
    trainer = make(Recording(lambda seen: Adjustment(0.02)), NoisyMomentum)
    fit(trainer, epochs=1)
    assert momentum_of(trainer.optimizer) is None
    assert trainer.optimizer.inner.lr == 0.02  # type: ignore[attr-defined]


def test_a_private_training_shows_a_policy_figures_of_the_evaluation_only() -> None:
    policy = Recording()
    trainer = make(policy, dp_sgd=DpSgd(1.0, 1.0, 10, 0.25))
    fit(trainer, epochs=2)
    assert [one.train_loss for one in policy.seen] == [None, None]
    assert policy.seen[1].validation["loss"] > 0
    assert trainer.state_dict()["steering"]["sums"] is None, "a checkpoint must not hold exact sums"


def test_a_checkpoint_of_a_policy_holds_its_values_and_memory(tmp_path: Path) -> None:
    def stop(trainer: MixedPrecisionTrainer) -> Callable[[], bool]:
        return lambda: trainer.step + 1 >= 2 * STEPS + 1

    params = {"patience": 1, "cooldown": 0, "threshold": 1.0, "smoothing": 0.0, "anneal": 0.0}
    whole = make("plateau", policy_params=params)
    found = rates(fit(whole, epochs=5))
    assert found[-1] < found[1]
    part = make("plateau", policy_params=params)
    fit(part, epochs=5, stop=stop(part))
    part.save(tmp_path / "part")
    resumed = make("plateau", policy_params=params)
    resumed.load(tmp_path / "part")
    fit(resumed, epochs=5)
    assert torch.equal(weights(resumed.model), weights(whole.model))
    assert resumed.state_dict()["steering"] == whole.state_dict()["steering"]
    other = make()
    other.load(tmp_path / "part")
    assert not other.steering.has_policy, "the trainer's own policy applies, here none"


def test_names_and_parameters_of_policies_are_checked() -> None:
    with pytest.raises(InvalidArgument, match="unknown policy 'nowhere'") as caught:
        make("nowhere")
    assert caught.value.field == "policy.name"
    with pytest.raises(InvalidArgument) as caught:
        make("plateau", policy_params={"patience": 0})
    assert caught.value.field == "policy.params.patience"
    with pytest.raises(InvalidArgument, match="policy is not a name"):
        make(Recording(), policy_params={"patience": 1})


def test_a_momentum_is_set_in_every_group() -> None:
    param = torch.nn.Parameter(torch.zeros(1))
    groups: list[Mapping[str, Any]] = [{"params": [param]}, {"params": [torch.nn.Parameter(torch.zeros(1))]}]
    optimizer = torch.optim.AdamW(groups)  # type: ignore[arg-type]
    set_momentum(optimizer, 0.7)
    assert [group["betas"] for group in optimizer.param_groups] == [(0.7, 0.999)] * 2
    assert momentum_of(torch.optim.LBFGS([param])) is None
