import pytest
import torch
import torch.nn.functional as F

from common.errors import InvalidArgument
from deepseek.training.losses import CrossEntropy, MeanSquaredError, NextTokenCrossEntropy, count_targets


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
    ):
        with pytest.raises(InvalidArgument) as caught:
            loss(outputs, target)
        assert caught.value.reason == "WRONG_SHAPE"


def test_any_other_callable_is_a_mean_over_samples() -> None:
    assert count_targets(F.l1_loss, torch.zeros(7, 3)).item() == 7
