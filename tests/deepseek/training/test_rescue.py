"""A policy that sets a rate at which the weights diverge does not end the training."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from common.errors import FailedPrecondition
from deepseek.steering import Adjustment, Observation, Policy
from deepseek.training import AdjustmentEvent, CheckpointEvent, MixedPrecisionTrainer
from deepseek.training import checkpoint as checkpoints
from deepseek.training.events import Event, WarningEvent
from deepseek.training.steering import MAX_BOUNDS
from tests.deepseek.training.ranks import check_ranks
from tests.deepseek.training.tasks import Classifier, Points, weights

LR = 0.1


class Raising(Policy):
    """Raises the rate before one epoch, or before each epoch from then on."""

    ceiling = 1e30

    def __init__(self, epoch: int, rate: float, *, again: bool = False) -> None:
        self._epoch, self._rate, self._again = epoch, rate, again

    def decide(self, observation: Observation) -> Adjustment | None:
        is_time = observation.epoch >= self._epoch if self._again else observation.epoch == self._epoch
        return Adjustment(self._rate) if is_time else None


class Run:
    """A training of 4 steps per epoch, with a policy.

    Args:
        policy: The policy.
        folder: For its checkpoints; None for none.
    """

    def __init__(self, policy: Policy | None, folder: Path | None = None) -> None:
        self.trainer = MixedPrecisionTrainer(Classifier(), "sgd", "fp32", lr=LR, policy=policy)
        self.events: list[Event] = []
        self._folder = folder

    def fit(self, epochs: int = 40, broken: Sequence[int] = (), **options: Any) -> None:
        if self._folder:
            options |= {"checkpoint": self._save, "checkpoint_interval_s": 0.0}
        self.trainer.fit(
            Points(40, broken=broken),
            epochs=epochs,
            batch_size=10,
            evaluation=Points(20),
            on_event=self.events.append,
            **options,
        )

    @property
    def warnings(self) -> list[str]:
        return [event.message for event in self.events if isinstance(event, WarningEvent)]

    @property
    def loss(self) -> float:
        return self.trainer.evaluate(Points(40))["loss"]

    def _save(self, data: bytes) -> str:
        assert self._folder
        path = self._folder / f"step-{self.trainer.step}"
        path.write_bytes(data)
        return path.name


def test_the_weights_of_the_last_good_checkpoint_come_back_with_half_the_rate(tmp_path: Path) -> None:
    run = Run(Raising(5, 1e20), tmp_path)
    run.fit()
    found = re.match(
        r"the gradients of 40 steps in a row, up to step (\d+), are not finite, so the weights are those of step (\d+) "
        r"again. The policy 'Raising' may now set a learning rate of at most 5e\+19",
        run.warnings[0],
    )
    assert found
    failed, restored = map(int, found.groups())
    assert restored <= 20 < failed, "the rate was raised after step 20"
    changes = [event for event in run.events if isinstance(event, AdjustmentEvent)]
    assert (changes[1].step, changes[1].old.learning_rate, changes[1].new.learning_rate) == (failed + 1, 1e20, 5e19)
    saved = {event.step for event in run.events if isinstance(event, CheckpointEvent)}
    assert failed in saved, "the restored weights are saved at once"
    assert not saved & set(range(failed - 38, failed)), "while steps are skipped, the weights may be bad"
    model = Classifier()
    checkpoints.load_model(model, checkpoints.read(tmp_path / f"step-{failed}"))
    before = Classifier()
    if restored:
        checkpoints.load_model(before, checkpoints.read(tmp_path / f"step-{restored}"))
    assert torch.equal(weights(model), weights(before))


@pytest.mark.parametrize("stores", [True, False], ids=["of-a-checkpoint", "of-the-start"])
def test_a_policy_that_keeps_failing_is_dropped_and_the_training_ends_well(tmp_path: Path, stores: bool) -> None:
    run = Run(Raising(5, 1e20, again=True), tmp_path if stores else None)
    run.fit(epochs=60)
    assert len(run.warnings) == MAX_BOUNDS
    assert "The policy 'Raising' is not used any more; the learning rate is 0.1" in run.warnings[-1]
    assert not run.trainer.steering.has_policy
    assert run.trainer.step == 240
    assert run.loss < 0.7


def test_a_policy_cannot_exceed_the_rate_to_which_it_was_bounded(tmp_path: Path) -> None:
    run = Run(Raising(5, 1e20), tmp_path)
    run.fit(stop=lambda: bool(run.warnings))
    run.trainer.save(tmp_path / "saved")
    resumed = Run(Raising(5, 1e25, again=True), tmp_path)
    resumed.trainer.load(tmp_path / "saved")
    resumed.fit(stop=lambda: len(resumed.events) > 8)
    assert resumed.trainer.step > run.trainer.step
    assert resumed.trainer.steering.values.learning_rate == 5e19


def test_a_training_without_a_policy_or_good_weights_ends_with_the_reason() -> None:
    for run in (Run(None), Run(Raising(0, 0.2))):
        with pytest.raises(FailedPrecondition) as caught:
            run.fit(broken=range(40))
        assert caught.value.reason == "NOT_FINITE"


def train_on_ranks(folder: Path) -> None:
    run = Run(Raising(5, 1e20, again=True), folder)
    run.fit(epochs=60)
    torch.save(weights(run.trainer.model), folder / f"weights-{torch.distributed.get_rank()}")


def test_all_ranks_return_to_the_same_weights(tmp_path: Path) -> None:
    check_ranks(2, train_on_ranks, tmp_path)
    first, second = (torch.load(tmp_path / f"weights-{rank}") for rank in (0, 1))
    assert bool(torch.isfinite(first).all())
    assert torch.equal(first, second)
