"""Every optimizer of torch trains and resumes, or is refused with a reason."""

import inspect
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from common.errors import InvalidArgument
from deepseek.data import ResumableSampler
from deepseek.training import MixedPrecisionTrainer
from deepseek.training import checkpoint as checkpoints
from tests.deepseek.training.optimizers import OPTIMIZERS, Bag, Matrix, trainer_of
from tests.deepseek.training.tasks import Classifier, Points, weights

NUM_SAMPLES = 21
EPOCHS = 3
FLAGS = ("foreach", "fused", "amsgrad", "maximize", "nesterov", "centered")


def fit(trainer: MixedPrecisionTrainer, **options: Any) -> None:
    trainer.fit(Points(NUM_SAMPLES), epochs=EPOCHS, batch_size=5, checkpoint=lambda _: None, **options)


def cases() -> list[Any]:
    """Each optimizer without flags and with each of its flags."""
    found = []
    for name, (optimizer, _, params) in OPTIMIZERS.items():
        if name == "SGD, sparse":
            found.append(pytest.param(name, {}, id=name))
            continue
        taken = inspect.signature(optimizer).parameters
        flags: list[dict[str, bool]] = [{}, *({flag: True} for flag in FLAGS if flag in taken and flag not in params)]
        found += [pytest.param(name, flag, id="-".join([name, *flag])) for flag in flags]
    return found


def test_no_optimizer_of_torch_is_forgotten() -> None:
    kinds = {kind for kind in vars(torch.optim).values() if inspect.isclass(kind)} - {torch.optim.Optimizer}
    assert {optimizer for optimizer, _, _ in OPTIMIZERS.values()} == kinds


@pytest.mark.parametrize(("name", "flags"), cases())
def test_a_resumed_run_is_bit_for_bit_the_run_in_one_go(name: str, flags: dict[str, bool], tmp_path: Path) -> None:
    whole, part, resumed = (trainer_of(name, flags) for _ in range(3))
    before = weights(whole.model).clone()
    fit(whole)
    fit(part, stop=lambda: part.step == 6)
    part.save(tmp_path / "part")
    resumed.load(tmp_path / "part")
    fit(resumed)
    assert not torch.equal(weights(whole.model), before)
    assert weights(whole.model).isfinite().all()
    assert checkpoints.dumps(resumed.state_dict()) == checkpoints.dumps(whole.state_dict())


@pytest.mark.parametrize("clip_norm", [0.0, 0.5])
def test_lbfgs_is_a_loop_written_by_hand(clip_norm: float) -> None:
    dataset, options = Points(24), {"line_search_fn": "strong_wolfe", "max_iter": 8}
    trainer = MixedPrecisionTrainer(
        Classifier(), torch.optim.LBFGS, "fp32", loss=F.cross_entropy, optimizer_params=options, clip_norm=clip_norm
    )
    trainer.fit(dataset, epochs=4, batch_size=24)
    model = Classifier()
    optimizer = torch.optim.LBFGS(model.parameters(), **options)  # type: ignore[arg-type]
    for epoch in range(4):
        order = torch.from_numpy(ResumableSampler(24, 24).order(epoch))

        def closure(order: Tensor = order) -> Tensor:
            optimizer.zero_grad()
            loss = F.cross_entropy(model(dataset.x[order]), dataset.target[order])
            loss.backward()
            if clip_norm:
                nn.utils.clip_grad_norm_(model.parameters(), clip_norm)
            return loss

        optimizer.step(closure)  # type: ignore[arg-type]
    torch.testing.assert_close(weights(trainer.model), weights(model))
    assert trainer.evaluate(dataset)["loss"] < 0.2


def test_each_evaluation_of_a_step_has_the_same_dropout() -> None:
    seen: list[Tensor] = []

    class Watched(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            seen.append(F.dropout(torch.ones(64), training=True))
            return super().forward(x)

    trainer = MixedPrecisionTrainer(Watched(dropout=0.5), torch.optim.LBFGS, "fp32", lr=0.1)
    trainer.fit(Points(16), epochs=2, batch_size=16)
    evaluations = len(seen) // 2
    assert evaluations > 2
    assert all(torch.equal(mask, seen[0]) for mask in seen[:evaluations])
    assert not torch.equal(seen[0], seen[-1])


class Cliff(nn.Module):
    """Its output is not finite once the weight is below 0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0]))

    def forward(self, x: Tensor) -> Tensor:
        return (self.weight * x).sqrt()


def test_a_step_that_runs_into_values_that_are_not_finite_is_undone() -> None:
    trainer = MixedPrecisionTrainer(Cliff(), torch.optim.LBFGS, "fp32", lr=4.0, loss=lambda outputs, _: outputs.mean())
    result = trainer.fit([{"x": torch.tensor([4.0]), "target": 0} for _ in range(2)], epochs=3, batch_size=2)
    assert (result.step, result.num_skipped_steps) == (3, 3)
    assert trainer.model.weight.tolist() == [1.0]
    assert not trainer.optimizer.state


class Sharpness(torch.optim.SGD):
    """Sharpness-aware minimization (Foret et al. 2021) in its usual form: gradients first, then the closure."""

    @torch.no_grad()
    def step(self, closure: Any) -> None:  # type: ignore[override]
        """Updates by the gradients at the worst nearby point."""
        params = [param for group in self.param_groups for param in group["params"]]
        before = [param.clone() for param in params]
        norm = torch.stack([param.grad.norm() for param in params if param.grad is not None]).norm()
        for param in params:
            param.add_(0.05 * param.grad / norm)
        self.zero_grad()
        closure()
        for param, value in zip(params, before, strict=True):
            param.copy_(value)
        super().step()


def test_an_optimizer_that_wants_gradients_and_a_closure_gets_both() -> None:
    dataset = Points(16)
    trainer = MixedPrecisionTrainer(Classifier(), Sharpness, "fp32", lr=0.1, loss=F.cross_entropy)
    trainer.fit(dataset, batch_size=16)
    model, order = Classifier(), torch.from_numpy(ResumableSampler(16, 16).order(0))

    def gradients() -> list[Tensor]:
        loss = F.cross_entropy(model(dataset.x[order]), dataset.target[order])
        return list(torch.autograd.grad(loss, list(model.parameters())))

    first = gradients()
    norm = torch.stack([gradient.norm() for gradient in first]).norm()
    with torch.no_grad():
        before = [param.clone() for param in model.parameters()]
        for param, gradient in zip(model.parameters(), first, strict=True):
            param.add_(0.05 * gradient / norm)
    second = gradients()
    with torch.no_grad():
        for param, value, gradient in zip(model.parameters(), before, second, strict=True):
            param.copy_(value - 0.1 * gradient)
    torch.testing.assert_close(weights(trainer.model), weights(model))


class Wide(torch.optim.Optimizer):
    """Keeps its state in types other than the parameter's."""

    def __init__(self, params: Any, lr: float) -> None:
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Moves by a momentum in float64, and counts in int64."""
        for group in self.param_groups:
            for param in group["params"]:
                state = self.state[param]
                state["momentum"] = 0.9 * state.get("momentum", torch.zeros_like(param).double()) + param.grad
                state["count"] = state.get("count", torch.zeros(3, dtype=torch.int64)) + 2**40 + 1
                param.sub_(group["lr"] * state["momentum"].float())


def test_state_keeps_its_types_and_its_precision(tmp_path: Path) -> None:
    whole, part, resumed = (MixedPrecisionTrainer(Classifier(), Wide, "fp32") for _ in range(3))
    fit(whole)
    fit(part, stop=lambda: part.step == 6)
    part.save(tmp_path / "part")
    resumed.load(tmp_path / "part")
    fit(resumed)
    assert checkpoints.dumps(resumed.state_dict()) == checkpoints.dumps(whole.state_dict())


@pytest.mark.parametrize(
    ("model", "optimizer", "params", "problem"),
    [
        (Classifier, torch.optim.Muon, {}, "Muon only supports 2D parameters"),
        (Classifier, torch.optim.Adam, {"capturable": True}, "capturable=True is for CUDA graphs"),
        (Classifier, torch.optim.SGD, {"differentiable": True}, "differentiable=True is for gradients through an upd"),
        (Classifier, torch.optim.Adam, {"fused": True, "foreach": True}, "fused.* and .*foreach.* cannot be"),
        (Classifier, torch.optim.SGD, {"momentums": 0.9}, "unexpected keyword argument 'momentums'"),
        (Classifier, torch.optim.SGD, {"momentum": -1.0}, "Invalid momentum"),
        (Classifier, 3, {}, "not callable"),
    ],
)
def test_an_optimizer_that_does_not_fit_is_refused_when_the_trainer_is_made(
    model: type[nn.Module], optimizer: Any, params: dict[str, Any], problem: str
) -> None:
    with pytest.raises(InvalidArgument, match=problem) as caught:
        MixedPrecisionTrainer(model(), optimizer, "fp32", optimizer_params=params)
    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", "optimizer")


@pytest.mark.parametrize(
    ("model", "optimizer", "problem"),
    [
        (Classifier, torch.optim.SparseAdam, "SparseAdam does not support dense gradients"),
        (Bag, torch.optim.Adam, "sparse"),
    ],
)
def test_an_optimizer_that_does_not_take_the_gradients_is_refused_at_the_first_step(
    model: type[nn.Module], optimizer: Any, problem: str
) -> None:
    trainer = MixedPrecisionTrainer(model(), optimizer, "fp32")
    with pytest.raises(InvalidArgument, match=f"cannot update this model: .*{problem}") as caught:
        fit(trainer)
    assert caught.value.field == "optimizer"


@pytest.mark.filterwarnings("ignore::deepseek.training.precision.SlowPrecisionWarning")
def test_a_closure_and_a_loss_scale_exclude_each_other() -> None:
    with pytest.raises(InvalidArgument, match=r"LBFGS evaluates the loss several times.*use fp32 or bf16") as c:
        MixedPrecisionTrainer(Classifier(), torch.optim.LBFGS, "fp16")
    assert c.value.field == "precision"


def test_an_optimizer_of_other_parameters_is_refused() -> None:
    for params in (Matrix().parameters(), [*Classifier().parameters()]):
        with pytest.raises(InvalidArgument, match="that is not part of the model"):
            MixedPrecisionTrainer(Classifier(), torch.optim.SGD(params))
