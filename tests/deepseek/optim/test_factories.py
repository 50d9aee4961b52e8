from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from common.errors import InvalidArgument
from deepseek.components import OPTIMIZERS
from deepseek.optim import OptimizerInterface, adagrad, adam, adamw, nadam, radam, rmsprop, sgd
from deepseek.optim.factories import make_optimizer
from deepseek.optim.interface import InterfaceAdapter
from deepseek.training import MixedPrecisionTrainer


class Still(OptimizerInterface):
    def step(self, params: object, gradients: object) -> None: ...


def params() -> list[Tensor]:
    return list(nn.Linear(3, 2).parameters())


@pytest.mark.parametrize("factory", [sgd, adam, adamw])
def test_a_factory_gives_the_updates_of_torch(factory: type) -> None:
    classes = {sgd: torch.optim.SGD, adam: torch.optim.Adam, adamw: torch.optim.AdamW}
    ours, theirs = (nn.Parameter(torch.tensor([1.0, -2.0, 3.0])) for _ in range(2))
    optimizers = [factory([ours], lr=0.1, weight_decay=0.2), classes[factory]([theirs], lr=0.1, weight_decay=0.2)]
    for step in range(3):
        for param in (ours, theirs):
            param.grad = torch.tensor([0.5, 1.0, -1.0]) * (step + 1)
        for optimizer in optimizers:
            optimizer.step()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize(
    ("factory", "kind", "given", "theirs"),
    [
        (nadam, torch.optim.NAdam, {"weight_decay": 0.2}, {"decoupled_weight_decay": True}),
        (radam, torch.optim.RAdam, {"weight_decay": 0.2}, {"decoupled_weight_decay": True}),
        (rmsprop, torch.optim.RMSprop, {"momentum": 0.9, "centered": True, "weight_decay": 0.2}, {}),
        (adagrad, torch.optim.Adagrad, {"lr_decay": 0.1, "weight_decay": 0.2}, {}),
    ],
)
def test_further_factories_give_the_updates_of_torch(
    factory: Any, kind: type[torch.optim.Optimizer], given: dict[str, Any], theirs: dict[str, Any]
) -> None:
    first, second = (nn.Parameter(torch.tensor([1.0, -2.0, 3.0])) for _ in range(2))
    defaults = {key: value for key, value in kind([second]).defaults.items() if key in ("lr", "eps", "betas", "alpha")}
    made = factory([first], **given)
    assert {key: made.defaults[key] for key in defaults} == defaults
    optimizers = [made, kind([second], **given, **theirs)]
    for step in range(3):
        for param, optimizer in zip((first, second), optimizers, strict=True):
            param.grad = torch.tensor([0.5, 1.0, -1.0]) * (step + 1)
            optimizer.step()
    assert torch.equal(first, second)


@pytest.mark.parametrize("line_search", [True, False])
def test_lbfgs_solves_a_small_problem_in_a_few_steps(line_search: bool) -> None:
    torch.manual_seed(0)
    data = [{"input": torch.randn(4), "target": 0.0} for _ in range(16)]
    for row in data:
        row["target"] = float(row["input"] @ torch.tensor([1.0, -2.0, 3.0, 0.5])) + 1  # type: ignore[operator]
    trainer = MixedPrecisionTrainer(
        nn.Linear(4, 1), "lbfgs", "fp32", loss="mse", optimizer_params={"line_search": line_search}
    )
    trainer.fit(data, epochs=3, batch_size=16)
    assert trainer.evaluate(data)["loss"] < 1e-8


def test_names_are_built_with_checked_parameters() -> None:
    optimizer = make_optimizer("sgd", params(), 0.5, {"momentum": 0.9})
    assert [optimizer.defaults[key] for key in ("lr", "momentum", "fused")] == [0.5, 0.9, True]
    with pytest.raises(InvalidArgument) as caught:
        make_optimizer("adamw", params(), None, {"momentum": 0.9})
    assert (caught.value.reason, caught.value.field) == ("UNKNOWN_FIELD", "optimizer.params.momentum")
    with pytest.raises(InvalidArgument, match="Invalid beta"):
        OPTIMIZERS.build("adam", {"betas": [2, 0.9]}, field="optimizer", params=params())


@pytest.mark.parametrize("asked", [{}, {"foreach": True}, {"fused": False}])
def test_adamw_is_fused_unless_the_user_says_otherwise(asked: dict[str, bool]) -> None:
    optimizer = make_optimizer(torch.optim.AdamW, params(), None, asked)
    assert bool(optimizer.defaults["fused"]) is (not asked)


def test_a_custom_optimizer_is_wrapped_as_a_torch_optimizer() -> None:
    for given in (Still, Still(params(), lr=1e-3)):
        optimizer = make_optimizer(given, params(), None, {})
        assert isinstance(optimizer, InterfaceAdapter)
        assert isinstance(optimizer.inner, Still)
        assert optimizer.param_groups[0]["lr"] == 1e-3


def test_settings_that_could_not_take_effect_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="given twice"):
        make_optimizer("adam", params(), 0.1, {"lr": 0.2})
    with pytest.raises(InvalidArgument, match="is already an instance"):
        make_optimizer(Still(params()), params(), 0.1, {})
    with pytest.raises(InvalidArgument, match="must be a torch optimizer"):
        make_optimizer(lambda params, lr: 3, params(), None, {})


def test_without_a_learning_rate_the_default_of_the_optimizer_applies() -> None:
    assert make_optimizer(torch.optim.Adadelta, params(), None, {}).param_groups[0]["lr"] == 1.0
    half = partial(torch.optim.SGD, lr=0.5)
    assert make_optimizer(half, params(), None, {}).param_groups[0]["lr"] == 0.5
    assert make_optimizer(half, params(), 0.25, {}).param_groups[0]["lr"] == 0.25
    required = make_optimizer(lambda params, lr: torch.optim.SGD(params, lr), params(), None, {})
    assert required.param_groups[0]["lr"] == 1e-3
