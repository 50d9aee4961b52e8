"""Which epoch is the best, and when training ends early."""

import math

import pytest
import torch
from torch import nn

from common.errors import InvalidArgument
from deepseek.training import EarlyStopping, MixedPrecisionTrainer
from deepseek.training.selection import Epoch, Selection


def added(selection: Selection, *figures: float) -> list[bool]:
    return [selection.add(Epoch(step, step, {"figure": figure})) for step, figure in enumerate(figures, 1)]


@pytest.mark.parametrize(("greater_is_better", "best"), [(True, 3), (False, 2)])
def test_the_first_of_equally_good_epochs_is_the_best(greater_is_better: bool, best: int) -> None:
    selection = Selection("figure", greater_is_better=greater_is_better)
    added(selection, 0.5, 0.4, 0.7, 0.7, 0.4)
    assert selection.best is not None
    assert selection.best.epoch == best
    assert not selection.exhausted


def test_of_equally_good_epochs_the_one_with_the_lowest_loss_is_the_best() -> None:
    selection = Selection("accuracy", greater_is_better=True, early_stopping=EarlyStopping(patience=3))
    figures = [(0.9, 0.5), (1.0, 0.4), (0.9, 0.1), (1.0, 0.3), (1.0, 0.2), (1.0, 0.2), (1.0, 0.3)]
    for step, (accuracy, loss) in enumerate(figures, 1):
        selection.add(Epoch(step, step, {"accuracy": accuracy, "loss": loss}))
        assert not selection.exhausted  # an equal figure with a lower loss is an improvement
    assert selection.best is not None
    assert selection.best.epoch == 5
    selection.add(Epoch(8, 8, {"accuracy": 1.0, "loss": 0.2}))
    assert selection.exhausted


def test_an_epoch_whose_figure_is_not_a_number_is_never_the_best() -> None:
    selection = Selection("figure", greater_is_better=True, early_stopping=EarlyStopping(patience=2))
    assert added(selection, math.nan, 0.1, math.nan, math.nan) == [False, True, False, False]
    assert selection.exhausted


def test_small_improvements_do_not_count_for_early_stopping_but_for_the_best_epoch() -> None:
    selection = Selection("figure", greater_is_better=True, early_stopping=EarlyStopping(patience=2, min_delta=0.1))
    assert added(selection, 0.5, 0.55, 0.59) == [True, True, True]
    assert selection.exhausted


def test_a_restored_selection_goes_on_as_the_original() -> None:
    original, restored = (
        Selection("figure", greater_is_better=False, early_stopping=EarlyStopping(patience=3)) for _ in range(2)
    )
    added(original, 0.5, 0.6)
    restored.load_state_dict(original.state_dict())
    for selection in (original, restored):
        selection.add(Epoch(2, 2, {"figure": 0.6}))  # an evaluation that is repeated after a restart does not count
        selection.add(Epoch(3, 3, {"figure": 0.7}))
        assert not selection.exhausted
        selection.add(Epoch(4, 4, {"figure": 0.7}))
        assert selection.exhausted
    assert original.state_dict() == restored.state_dict()
    other = Selection("other", greater_is_better=False)
    other.load_state_dict(original.state_dict())
    assert other.best is None
    for damaged in ([], {"metric": "figure"}, {**original.state_dict(), "best": {"step": 1}}):
        with pytest.raises(InvalidArgument, match="damaged"):
            restored.load_state_dict(damaged)


def test_the_trainer_ends_early_and_names_the_best_epoch() -> None:
    samples = [{"input": torch.randn(4), "target": i % 2} for i in range(16)]
    stopping = EarlyStopping(patience=2)
    trainer = MixedPrecisionTrainer(
        nn.Linear(4, 2),
        lr=0.0,
        precision="fp32",
        metrics=["accuracy"],
        select_metric="accuracy",
        early_stopping=stopping,
    )
    kept: list[bytes] = []
    result = trainer.fit(
        samples, epochs=9, batch_size=8, evaluation=samples, checkpoint=lambda data: None, keep_best=kept.append
    )
    assert result.best is not None
    assert (result.best.epoch, result.best.step, result.step) == (1, 2, 6)
    assert len(kept) == 1
    with pytest.raises(InvalidArgument, match="early stopping requires evaluation data"):
        trainer.fit(samples, epochs=10)
    with pytest.raises(InvalidArgument, match="the figures of this run are loss, accuracy"):
        MixedPrecisionTrainer(nn.Linear(4, 2), metrics=["accuracy"], select_metric="f1")
    with pytest.raises(InvalidArgument, match="patience is 0"):
        EarlyStopping(patience=0)
