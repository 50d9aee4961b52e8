"""What the papers say about the proxies, on networks small enough to compute the scores by hand."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deepseek.nas import proxies
from deepseek.nas.proxies import naswot, rank_sum, spearman, synflow
from tests.deepseek.nas.networks import CONV, build, conv_spec

IMAGES = {"image": torch.rand(16, 1, 12, 12, generator=torch.Generator().manual_seed(0)) * 2 - 1}


class Linear(nn.Module):
    """Two products with a ReLU in between."""

    def __init__(self, first: list[list[float]], second: list[list[float]]) -> None:
        super().__init__()
        self.first, self.second, self.relu = nn.Linear(2, 2, bias=False), nn.Linear(2, 1, bias=False), nn.ReLU()
        with torch.no_grad():
            self.first.weight.copy_(torch.tensor(first))
            self.second.weight.copy_(torch.tensor(second))

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.relu(self.first(x)))  # type: ignore[no-any-return]


def test_synflow_is_the_sum_of_the_flow_through_all_weights() -> None:
    model = Linear([[1.0, -2.0], [3.0, 4.0]], [[5.0, -6.0]])
    # With absolute weights and an input of ones, the output is 5 * 3 + 6 * 7, which flows through each of two layers.
    assert synflow(model, {"x": torch.zeros(7, 2)}) == pytest.approx(math.log(2 * (5 * 3 + 6 * 7)))


def test_naswot_is_the_determinant_of_the_agreements() -> None:
    model = Linear([[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0]])
    batch = torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    agreements = np.array([[2, 1, 0], [1, 2, 1], [0, 1, 2]])
    assert naswot(model, {"x": batch}) == pytest.approx(np.linalg.slogdet(agreements)[1])


def test_samples_that_a_network_cannot_tell_apart_have_a_low_but_finite_score() -> None:
    model = Linear([[1.0, 0.0], [0.0, 1.0]], [[1.0, 1.0]])
    same = naswot(model, {"x": torch.ones(3, 2)})
    assert math.isfinite(same)
    assert same < naswot(model, {"x": torch.tensor([[1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])})


@pytest.mark.parametrize("proxy", [synflow, naswot])
def test_a_score_is_finite_repeats_and_leaves_the_network_as_it_was(proxy: Any) -> None:
    rng = np.random.default_rng(0)
    for _ in range(15):
        model = build(CONV.sample(rng))
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        score = proxy(model, IMAGES)
        assert math.isfinite(score)
        assert proxy(model, IMAGES) == score
        assert model.training
        assert all(parameter.grad is None for parameter in model.parameters())
        assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("proxy", [synflow, naswot])
@pytest.mark.parametrize("block", ["dense", "separable"])
def test_a_wider_network_scores_more(proxy: Any, block: str) -> None:
    # Both papers: the score grows with the width, as does accuracy in their search spaces.
    scores = [
        proxy(build(conv_spec({"width": width, "block": block, "expansion": 2}, stem=width)), IMAGES)
        for width in (4, 16, 64)
    ]
    assert scores == sorted(scores)
    assert len(set(scores)) == 3


def test_a_deeper_network_has_more_synaptic_flow() -> None:
    scores = [synflow(build(conv_spec({"depth": depth})), IMAGES) for depth in (1, 3, 9)]
    assert scores == sorted(scores)


def test_a_network_that_is_broken_has_no_score() -> None:
    model = build(conv_spec({}))
    for parameter in model.parameters():
        torch.nn.init.constant_(parameter, math.nan)
    assert math.isnan(synflow(model, IMAGES))
    assert math.isnan(naswot(model, IMAGES))
    assert math.isnan(naswot(nn.Linear(2, 2), {"input": torch.ones(2, 2)}))


def test_nan_ranks_below_every_number() -> None:
    assert rank_sum({"a": [math.nan, -math.inf, 1.0]}).tolist() == [0.5, 0.5, 2.0]
    scores = {"a": [3.0, 1.0, 2.0], "b": [30.0, math.nan, 10.0]}
    assert rank_sum(scores).argsort().tolist() == [1, 2, 0]


def test_rank_correlation() -> None:
    assert spearman([1, 2, 3, 4], [10, 20, 30, 40]) == pytest.approx(1)
    assert spearman([1, 2, 3, 4], [4, 3, 2, 1]) == pytest.approx(-1)
    assert math.isnan(spearman([1, 2], [5, 5]))
    assert proxies.spearman([1.0, 2.0, 3.0, 4.0], [1.0, 1.0, 2.0, 3.0]) == pytest.approx(0.9486833)
