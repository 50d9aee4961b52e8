"""Statistics that modules compute from batches: found, fitted once and fixed."""

import pytest
import torch
from torch import Tensor, nn

from common.errors import InvalidArgument
from deepseek.models.tabular_net import Standardise
from deepseek.training.running_statistics import fit_statistics, freeze_modules, statistics_modules


class Net(nn.Module):
    """Keeps statistics of its columns, and optionally of its features."""

    def __init__(self, *, has_batch_norm: bool = False) -> None:
        super().__init__()
        self.standardise = Standardise(3)
        self.linear = nn.Linear(3, 4)
        self.norm = nn.BatchNorm1d(4) if has_batch_norm else nn.LayerNorm(4)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.dropout(self.norm(self.linear(self.standardise(x))))
        return features


class Averaging(nn.Module):
    """Keeps statistics itself, not in a module of its own."""

    mean: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.mean.lerp_(x.mean(), 0.1)
        return x


def batches() -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [{"x": 5 + torch.randn(size, 3, generator=generator)} for size in (8, 8, 1)]


@pytest.mark.parametrize(("has_batch_norm", "names"), [(False, ("standardise",)), (True, ("standardise", "norm"))])
def test_modules_are_found_without_a_trace(has_batch_norm: bool, names: tuple[str, ...]) -> None:
    model = Net(has_batch_norm=has_batch_norm)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.random.get_rng_state()
    assert statistics_modules(model, batches()[0]) == names
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(module.training for module in model.modules())


def test_statistics_are_those_of_all_batches_and_stay_so() -> None:
    model = Net()
    assert fit_statistics(model, batches()) == ("standardise",)
    rows = torch.cat([batch["x"] for batch in batches()])
    torch.testing.assert_close(model.standardise.mean, rows.mean(0))
    torch.testing.assert_close(model.standardise.variance, rows.var(0, correction=0))
    model(rows + 100)
    torch.testing.assert_close(model.standardise.mean, rows.mean(0))
    assert model.dropout.training, "only the modules with statistics are frozen"


def test_without_statistics_only_one_batch_is_read() -> None:
    remaining = iter(batches())
    assert fit_statistics(nn.Sequential(), ({"input": batch["x"]} for batch in remaining)) == ()
    assert len(list(remaining)) == 2


def test_statistics_of_the_outermost_module_are_refused() -> None:
    with pytest.raises(InvalidArgument, match="move them to a module of their own") as caught:
        fit_statistics(Averaging(), batches())
    assert (caught.value.reason, caught.value.field) == ("BAD_MODEL_STATE", "spec.model")


def test_a_module_that_does_not_exist_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="the model has no module 'nowhere'") as caught:
        freeze_modules(Net(), ["nowhere"])
    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", "recipe.frozen")
