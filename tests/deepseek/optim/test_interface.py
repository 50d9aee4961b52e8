from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from common.errors import InvalidArgument
from deepseek.optim import OptimizerInterface
from deepseek.optim.interface import InterfaceAdapter


class Momentum(OptimizerInterface):
    """State of several kinds: a tensor, an integer tensor, a number and a list."""

    def step(self, params: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        for param, gradient in zip(params, gradients, strict=True):
            state = self.state[param]
            state["momentum"] = 0.9 * state.get("momentum", torch.zeros_like(param).double()) + gradient
            state["signs"] = gradient.sign().to(torch.int8)
            state["rates"] = [*state.get("rates", []), self.lr]
            param.sub_(self.lr * state["momentum"].float())


def test_an_optimizer_without_a_step_cannot_be_created() -> None:
    with pytest.raises(TypeError, match="abstract method"):
        OptimizerInterface([])  # type: ignore[abstract]


def test_it_receives_the_parameters_with_gradients_and_the_rate_of_the_step() -> None:
    first, second = (nn.Parameter(torch.ones(2)) for _ in range(2))
    adapter = InterfaceAdapter(Momentum([first, second], lr=0.5))
    second.grad = torch.tensor([1.0, -1.0])
    adapter.param_groups[0]["lr"] = 0.25
    adapter.step()
    assert first.tolist() == [1.0, 1.0]
    assert second.tolist() == [0.75, 1.25]
    assert second.requires_grad
    assert adapter.inner.state[second]["rates"] == [0.25]


def test_its_state_is_restored_with_its_types() -> None:
    param = nn.Parameter(torch.ones(2))
    source = InterfaceAdapter(Momentum([nn.Parameter(torch.ones(2)), param]))
    param.grad = torch.tensor([1.0, -1.0])
    source.step()
    other = nn.Parameter(torch.ones(2))
    target = InterfaceAdapter(Momentum([nn.Parameter(torch.ones(2)), other]))
    target.load_state_dict(source.state_dict())
    state = target.inner.state[other]
    assert state["momentum"].dtype == torch.float64
    assert state["signs"].tolist() == [1, -1]
    assert state["signs"].dtype == torch.int8
    assert state["rates"] == [1e-3]


@pytest.mark.parametrize(
    "state", [{}, {"state": []}, {"state": {"0": {}}}, {"state": {1: {}}}, {"state": {0: 3}}, {"state": {}, "more": 1}]
)
def test_a_malformed_state_is_refused(state: dict[str, object]) -> None:
    optimizer = Momentum([nn.Parameter(torch.ones(2))])
    with pytest.raises(InvalidArgument) as caught:
        optimizer.load_state_dict(state)
    assert caught.value.reason == "BAD_STATE"
