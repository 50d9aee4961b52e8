import math

import pytest
import torch

from common.errors import InvalidArgument
from deepseek.training.losses import NextTokenCrossEntropy
from deepseek.training.metrics import Accuracy, NextTokenAccuracy, Perplexity


def test_accuracy_counts_targets_that_are_not_ignored() -> None:
    outputs = torch.eye(3)[[0, 1, 2, 0]]
    sums = Accuracy().sums(outputs, torch.tensor([0, 2, 2, -1]))
    assert sums.tolist() == [2, 3]
    assert Accuracy().result([2, 3]) == 2 / 3


def test_accuracy_adds_up_over_any_split_into_batches() -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, target = torch.randn(50, 4, generator=generator), torch.randint(-1, 4, (50,), generator=generator)
    whole = Accuracy().sums(outputs, target)
    parts = sum(Accuracy().sums(outputs[i : i + 7], target[i : i + 7]) for i in range(0, 50, 7))
    assert whole.tolist() == parts.tolist()  # type: ignore[union-attr]


def test_nothing_to_count_is_not_a_number() -> None:
    assert math.isnan(Accuracy().result([0, 0]))
    assert math.isnan(Perplexity().result([0, 0]))


def test_next_token_accuracy_leaves_padding_out() -> None:
    outputs = torch.eye(8)[torch.tensor([[6, 1, 3, 3], [6, 0, 0, 0]])]
    sums = NextTokenAccuracy().sums(outputs, torch.tensor([[5, 6, 7, 0], [5, 6, 0, 0]]))
    assert sums.tolist() == [2, 3]


def test_perplexity_is_exp_of_the_loss() -> None:
    outputs, target = torch.randn(3, 6, 9), torch.randint(1, 9, (3, 6))
    metric = Perplexity()
    perplexity = metric.result(metric.sums(outputs, target).tolist())
    assert perplexity == pytest.approx(math.exp(NextTokenCrossEntropy()(outputs, target).item()), rel=1e-5)
    assert metric.result([1e6, 1]) == math.inf


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InvalidArgument):
        Accuracy().sums(torch.zeros(2, 5), torch.zeros(3))
