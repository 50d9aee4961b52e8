"""Models and optimizers of every form train and resume like the simplest ones, also on several ranks."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.errors import InvalidArgument
from deepseek.optim import OptimizerInterface
from deepseek.training import MixedPrecisionTrainer
from deepseek.training import checkpoint as checkpoints
from tests.deepseek.training import optimizers
from tests.deepseek.training.forms import FORMS, logits_loss
from tests.deepseek.training.optimizers import OPTIMIZERS
from tests.deepseek.training.ranks import check_ranks
from tests.deepseek.training.tasks import NUM_CLASSES, NUM_FEATURES, Classifier, Points, weights

NUM_SAMPLES = 21  # in batches of 5: shares of 3 and 2, and in the last batch of 1 and 0
EPOCHS = 3


def trainer_of(form: str) -> MixedPrecisionTrainer:
    return MixedPrecisionTrainer(
        FORMS[form](), "sgd", "fp32", lr=0.1, loss=logits_loss, optimizer_params={"momentum": 0.9, "weight_decay": 0.1}
    )


def fit(trainer: MixedPrecisionTrainer, *, batch_size: int = 5, **options: Any) -> None:
    points = Points(NUM_SAMPLES)
    trainer.fit(points, epochs=EPOCHS, batch_size=batch_size, evaluation=points, checkpoint=lambda _: None, **options)


def batch_size_of(name: str) -> int:
    """Batches that do not amplify rounding: curvature from two batches divides by a small difference."""
    return NUM_SAMPLES if name == "LBFGS" else 5


@pytest.mark.parametrize("form", FORMS)
def test_a_resumed_run_is_bit_for_bit_the_run_in_one_go(form: str, tmp_path: Path) -> None:
    whole, part, resumed = (trainer_of(form) for _ in range(3))
    fit(whole)
    fit(part, stop=lambda: part.step == 6)
    part.save(tmp_path / "part")
    resumed.load(tmp_path / "part")
    fit(resumed)
    assert resumed.step == whole.step == 5 * EPOCHS
    assert checkpoints.dumps(resumed.state_dict()) == checkpoints.dumps(whole.state_dict())


def train_all(folder: Path) -> None:
    for form in FORMS:
        trainer = trainer_of(form)
        fit(trainer)
        trainer.save(folder / form)
    for name in OPTIMIZERS:
        trainer = optimizers.trainer_of(name)
        fit(trainer, batch_size=batch_size_of(name))
        trainer.save(folder / name)


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ranks")
    check_ranks(2, train_all, folder)
    return folder


@pytest.mark.parametrize("name", [*FORMS, *OPTIMIZERS])
def test_two_ranks_have_the_gradients_of_one(name: str, two_ranks: Path) -> None:
    trainer = trainer_of(name) if name in FORMS else optimizers.trainer_of(name)
    fit(trainer, batch_size=batch_size_of(name))
    expected, found = trainer.state_dict(), checkpoints.read(two_ranks / name)
    assert found["optimizer"]["state"].keys() == expected["optimizer"]["state"].keys()  # no others were updated
    for part, weight in expected["model"].items():
        if isinstance(weight, Tensor) and weight.dtype in (torch.float32, torch.complex64):
            torch.testing.assert_close(found["model"][part], weight, rtol=1e-3, atol=1e-4)


class Growing(nn.Module):
    """A queue that grows with each pass."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(NUM_FEATURES, NUM_CLASSES)
        self.register_buffer("queue", torch.zeros(0))

    def forward(self, x: Tensor) -> Tensor:
        self.queue = torch.cat([self.queue, x.detach().mean().reshape(1)])
        logits: Tensor = self.linear(x)
        return logits


class Forgetful(nn.Linear):
    """Its extra state cannot be stored."""

    def __init__(self) -> None:
        super().__init__(NUM_FEATURES, NUM_CLASSES)
        self.seen: set[int] = set()

    def get_extra_state(self) -> set[int]:
        """A set."""
        return self.seen

    def set_extra_state(self, state: set[int]) -> None:
        self.seen = state


class Memory(OptimizerInterface):
    """Keeps state that a checkpoint cannot hold."""

    def step(self, params: object, gradients: Sequence[Tensor]) -> None:
        self.state[self.params[0]]["gradients"] = set(gradients)


@pytest.mark.parametrize(
    ("model", "optimizer", "problem", "step"),
    [
        (Forgetful, "sgd", "model/_extra_state is a set; the result of get_extra_state may contain", 0),
        (Growing, "sgd", r"queue was \[0\] when the trainer was created and is \[1\] now", 1),
        (Classifier, Memory, "optimizer/state/0/gradients is a set; the state may contain", 1),
    ],
)
def test_a_state_that_cannot_be_saved_is_found_when_training_begins(
    model: Callable[[], nn.Module], optimizer: Any, problem: str, step: int
) -> None:
    trainer = MixedPrecisionTrainer(model(), optimizer, "fp32")
    with pytest.raises(InvalidArgument, match=problem) as caught:
        fit(trainer)
    assert (caught.value.reason, trainer.step) == ("BAD_STATE", step)


def test_a_state_that_is_never_saved_may_be_anything() -> None:
    trainer = MixedPrecisionTrainer(Forgetful(), "sgd", "fp32")
    assert trainer.fit(Points(8), batch_size=4).step == 2


def test_a_model_without_anything_to_train_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="the model has no parameters to train"):
        MixedPrecisionTrainer(nn.ReLU())
    with pytest.raises(InvalidArgument, match="weight has no shape yet; pass a batch through the model"):
        MixedPrecisionTrainer(nn.LazyLinear(NUM_CLASSES))
    trainer = MixedPrecisionTrainer(Classifier().requires_grad_(False))
    assert trainer.evaluate(Points(4))["loss"] > 0
    with pytest.raises(InvalidArgument, match="every parameter of the model is frozen"):
        trainer.fit(Points(4))


@pytest.mark.parametrize(
    ("loss", "problem"),
    [
        (nn.Sequential(nn.Linear(3, 3)), "the loss has its own parameters"),
        (nn.CrossEntropyLoss(reduction="none"), r"must be a tensor with one element, not a tensor of shape \[4\]"),
        (lambda outputs, target: (outputs.sum(), {}), "must be a tensor with one element, not a tuple"),
        (lambda outputs, target: outputs.detach().sum(), "does not depend on any parameter"),
    ],
)
def test_a_loss_that_trains_nothing_is_refused(loss: Any, problem: str) -> None:
    with pytest.raises(InvalidArgument, match=problem) as caught:
        MixedPrecisionTrainer(Classifier(), loss=loss).fit(Points(8), batch_size=4)
    assert caught.value.field == "loss"


def test_a_loss_may_be_a_module_and_give_one_element() -> None:
    weight = torch.ones(NUM_CLASSES)
    trainer = MixedPrecisionTrainer(Classifier(), loss=nn.CrossEntropyLoss(weight, reduction="mean"))
    assert trainer.fit(Points(8), batch_size=4).step == 2
    trainer = MixedPrecisionTrainer(Classifier(), loss=lambda outputs, target: outputs.square().mean().reshape(1))
    assert trainer.fit(Points(8), batch_size=4, evaluation=Points(4)).metrics["loss"] > 0


def test_a_part_in_evaluation_mode_stays_in_it_while_the_model_trains() -> None:
    trainer = trainer_of("Frozen")
    before = trainer.model.norm.running_mean.clone()
    fit(trainer)
    assert trainer.model.training
    assert not trainer.model.norm.training
    assert torch.equal(trainer.model.norm.running_mean, before)


def test_a_model_that_comes_in_evaluation_mode_is_trained_as_a_whole() -> None:
    trainer = MixedPrecisionTrainer(Classifier(batch_norm=True).eval())
    trainer.fit(Points(16))
    assert all(module.training for module in trainer.model.modules())


def test_a_compiled_model_trains_and_its_checkpoint_is_that_of_the_model(tmp_path: Path) -> None:
    trainer = MixedPrecisionTrainer(torch.compile(Classifier(), backend="eager"), "sgd", "fp32")
    fit(trainer)
    trainer.save(tmp_path / "model")
    plain = MixedPrecisionTrainer(Classifier(), "sgd", "fp32")
    plain.load(tmp_path / "model")
    assert torch.equal(weights(plain.model), weights(trainer.model))


def test_a_model_that_takes_any_names_gets_every_field_but_the_target() -> None:
    class Columns(Classifier):
        def forward(self, **columns: Tensor) -> Tensor:
            assert sorted(columns) == ["x"]
            return super().forward(columns["x"])

    trainer = MixedPrecisionTrainer(Columns(), "sgd", "fp32")
    assert trainer.fit(Points(8), batch_size=4).step == 2


def test_what_a_module_caches_in_evaluation_is_used_in_training() -> None:
    trainer = trainer_of("Caching")
    trainer.evaluate(Points(4))
    fit(trainer)
    assert trainer.step == 5 * EPOCHS


def test_a_built_in_loss_says_what_it_needs_of_several_outputs() -> None:
    trainer = MixedPrecisionTrainer(FORMS["DictOutput"](), metrics=["accuracy"])
    with pytest.raises(
        InvalidArgument,
        match="cross_entropy needs a model that returns one tensor, not a dict; use a custom loss or metric",
    ):
        trainer.fit(Points(8))
