from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F

from common.errors import InvalidArgument
from deepseek.training.losses import (
    BinaryCrossEntropy,
    CrossEntropy,
    Huber,
    MeanAbsoluteError,
    MeanSquaredError,
    NextTokenCrossEntropy,
    count_targets,
)


def test_cross_entropy_is_the_mean_over_the_targets_that_count() -> None:
    outputs = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([[0, -1, 4], [-1, -1, 2]])
    loss = CrossEntropy()
    rows = outputs[target >= 0]
    torch.testing.assert_close(loss(outputs, target), F.cross_entropy(rows, target[target >= 0]))
    assert count_targets(loss, target).item() == 3


def test_targets_that_are_all_ignored_cost_nothing_and_have_a_gradient() -> None:
    outputs = torch.randn(2, 5, requires_grad=True)
    loss = CrossEntropy()(outputs, torch.tensor([-1, -1]))
    loss.backward()
    assert loss.item() == 0
    assert outputs.grad is not None
    assert not outputs.grad.any()


def test_label_smoothing_is_torchs() -> None:
    outputs, target = torch.randn(4, 5), torch.tensor([0, 1, 2, 3])
    expected = F.cross_entropy(outputs, target, label_smoothing=0.1)
    torch.testing.assert_close(CrossEntropy(label_smoothing=0.1)(outputs, target), expected)
    with pytest.raises(InvalidArgument):
        CrossEntropy(label_smoothing=1.5)


def test_next_tokens_are_predicted_from_the_position_before_and_padding_is_not() -> None:
    target = torch.tensor([[5, 6, 7, 0], [5, 0, 0, 0]])
    right = torch.full((2, 4, 8), -50.0)
    right[0, 0, 6] = right[0, 1, 7] = 50.0
    loss = NextTokenCrossEntropy()
    assert loss(right, target).item() == pytest.approx(0, abs=1e-6)
    assert count_targets(loss, target).item() == 2
    assert count_targets(NextTokenCrossEntropy(padding=-2), target).item() == 6


def test_squared_error_drops_a_last_dimension_of_one() -> None:
    loss = MeanSquaredError()
    assert loss(torch.tensor([[1.0], [3.0]]), torch.tensor([0.0, 0.0])).item() == 5.0
    assert count_targets(loss, torch.zeros(2, 3)).item() == 6


def test_shapes_that_do_not_fit_are_refused_rather_than_broadcast() -> None:
    for loss, outputs, target in (
        (CrossEntropy(), torch.zeros(2, 5), torch.zeros(3, dtype=torch.int64)),
        (MeanSquaredError(), torch.zeros(2, 5), torch.zeros(5)),
        (MeanAbsoluteError(), torch.zeros(2, 5), torch.zeros(5)),
        (Huber(), torch.zeros(2, 5), torch.zeros(5)),
        (BinaryCrossEntropy(), torch.zeros(2, 2), torch.zeros(2)),
    ):
        with pytest.raises(InvalidArgument) as caught:
            loss(outputs, target)
        assert caught.value.reason == "WRONG_SHAPE"


def test_any_other_callable_is_a_mean_over_samples() -> None:
    assert count_targets(F.l1_loss, torch.zeros(7, 3)).item() == 7


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_class_weights_are_torchs(label_smoothing: float) -> None:
    weights = (1.0, 3.0, 0.5)
    outputs, target = torch.randn(6, 3), torch.tensor([0, 1, 2, -1, 1, 0])
    loss = CrossEntropy(label_smoothing, weights)
    expected = F.cross_entropy(outputs, target, torch.tensor(weights), ignore_index=-1, label_smoothing=label_smoothing)
    torch.testing.assert_close(loss(outputs, target), expected)
    assert count_targets(loss, target).item() == 8.5
    # The means of two ranks, weighted by their counts, are the mean of one.
    parts = [(loss(outputs[part], target[part]), loss.count(target[part])) for part in (slice(0, 2), slice(2, 6))]
    whole = sum(mean * count for mean, count in parts) / sum(count for _, count in parts)
    torch.testing.assert_close(torch.as_tensor(whole).float(), expected)
    assert loss(outputs[3:4], target[3:4]).item() == 0


def test_binary_cross_entropy_is_torchs_without_the_ignored_targets() -> None:
    outputs, target = torch.randn(5, requires_grad=True), torch.tensor([0, 1, -1, 1, 0])
    kept = target >= 0
    for weight in (1.0, 4.0):
        loss = BinaryCrossEntropy(weight)
        expected = F.binary_cross_entropy_with_logits(
            outputs[kept], target[kept].float(), pos_weight=torch.tensor(weight)
        )
        torch.testing.assert_close(loss(outputs, target), expected)
        torch.testing.assert_close(loss(outputs[:, None], target.float()), expected)
    assert count_targets(loss, target).item() == 4
    nothing = BinaryCrossEntropy()(outputs, torch.full((5,), -1))
    nothing.backward()
    assert nothing.item() == 0
    assert outputs.grad is not None
    assert not outputs.grad.any()
    with pytest.raises(InvalidArgument, match="go up to 2"):
        BinaryCrossEntropy()(outputs, torch.tensor([0, 1, 2, 0, 0]))


def test_absolute_error_and_huber_are_torchs() -> None:
    outputs, target = torch.randn(4, 1) * 3, torch.randn(4)
    torch.testing.assert_close(MeanAbsoluteError()(outputs, target), F.l1_loss(outputs[:, 0], target))
    for delta in (0.5, 2.0):
        torch.testing.assert_close(Huber(delta)(outputs, target), F.huber_loss(outputs[:, 0], target, delta=delta))
    assert count_targets(Huber(), torch.zeros(2, 3)).item() == 6


@pytest.mark.parametrize(
    ("build", "field"),
    [
        (lambda: CrossEntropy(class_weights=(1.0, 0.0)), "class_weights"),
        (lambda: CrossEntropy(class_weights=()), "class_weights"),
        (lambda: BinaryCrossEntropy(0.0), "positive_weight"),
        (lambda: Huber(0.0), "delta"),
        (lambda: CrossEntropy(class_weights=(1.0, 2.0))(torch.zeros(2, 3), torch.tensor([0, 1])), "class_weights"),
        (lambda: CrossEntropy(class_weights=(1.0, 2.0)).count(torch.tensor([0, 2])), "class_weights"),
    ],
)
def test_parameters_of_a_loss_that_do_not_fit_are_refused(build: Callable[[], object], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        build()
    assert caught.value.field == field
