import math

import numpy as np
import pytest
import torch
from torch import Tensor

from common.errors import InvalidArgument
from deepseek.training.metrics import Metric
from deepseek.training.number_metrics import R2, MeanAbsoluteErrorMetric, RootMeanSquaredError

METRICS = [RootMeanSquaredError(), MeanAbsoluteErrorMetric(), R2()]


def task() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(200, generator=generator) * 3 + 20
    return target + torch.randn(200, generator=generator), target


def value(metric: Metric, outputs: Tensor, target: Tensor, batch_size: int = 1000) -> float:
    totals = torch.zeros(metric.num_sums, dtype=torch.float64)
    for start in range(0, len(target), batch_size):
        totals += metric.sums(outputs[start : start + batch_size], target[start : start + batch_size])
    return metric.result(totals.tolist())


def test_figures_are_those_of_their_definitions() -> None:
    outputs, target = task()
    errors = (outputs - target).double().numpy()
    spread = ((target.double() - target.double().mean()) ** 2).sum().item()
    expected = [np.sqrt((errors**2).mean()), np.abs(errors).mean(), 1 - (errors**2).sum() / spread]
    for metric, figure in zip(METRICS, expected, strict=True):
        assert value(metric, outputs, target) == pytest.approx(figure, rel=1e-6)
        assert value(metric, outputs[:, None], target) == value(metric, outputs, target)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_a_figure_does_not_depend_on_the_batches(metric: Metric) -> None:
    outputs, target = task()
    for size in (1, 7, 64):
        assert value(metric, outputs, target, size) == pytest.approx(value(metric, outputs, target), rel=1e-12)


def test_a_mean_that_is_large_against_the_spread_leaves_enough_digits() -> None:
    outputs, target = (one.double() for one in task())
    expected = value(R2(), outputs, target)
    assert value(R2(), outputs + 3000, target + 3000) == pytest.approx(expected, rel=1e-9)


def test_r2_of_the_mean_is_zero_and_of_equal_targets_not_a_number() -> None:
    _, target = task()
    assert value(R2(), target.mean().expand(200), target) == pytest.approx(0, abs=1e-6)
    assert value(R2(), target, target) == 1
    assert math.isnan(value(R2(), torch.zeros(4), torch.ones(4)))
    assert all(math.isnan(metric.result([0.0] * metric.num_sums)) for metric in METRICS)


@pytest.mark.parametrize("metric", METRICS, ids=lambda metric: metric.name)
def test_outputs_of_another_shape_are_refused_rather_than_broadcast(metric: Metric) -> None:
    with pytest.raises(InvalidArgument) as caught:
        metric.sums(torch.zeros(3, 2), torch.zeros(3))
    assert caught.value.reason == "WRONG_SHAPE"
