"""Results of trainings are kept, and failed trainings are attempted again when a search is started again."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from deepseek.nas.conv_space import ConvSpec
from deepseek.nas.halving import Rung
from deepseek.nas.records import Records
from deepseek.nas.trainings import MAX_ATTEMPTS, Training, Trainings
from tests.deepseek.nas.networks import conv_spec

GOOD, BAD = conv_spec({"width": 8}), conv_spec({"width": 4})


class Trainer:
    """Trains at once; trainings of `BAD` fail until it is repaired."""

    def __init__(self) -> None:
        self.repaired = False
        self.asked: list[Training[ConvSpec]] = []

    def __call__(self, trainings: Sequence[Training[ConvSpec]]) -> Iterator[tuple[Training[ConvSpec], float]]:
        for one in trainings:
            self.asked.append(one)
            failed = one.spec == BAD and not self.repaired
            yield one, math.nan if failed else one.epochs + 0.5 * one.seed

    def started_again(self, path: Path, key: str = "") -> Trainings[ConvSpec]:
        """The trainings of a search that is started again."""
        return Trainings(self, key, Records(path))


def test_an_accuracy_is_the_mean_over_the_repeats_and_is_kept(tmp_path: Path) -> None:
    trainer, done = Trainer(), list[int]()
    trainings = trainer.started_again(tmp_path / "records")
    assert trainings.accuracies([GOOD], Rung(1, 3, repeats=2), done.append) == [3.25]
    assert done == [1, 2]
    assert trainings.asked == set(trainer.asked)
    assert trainer.started_again(tmp_path / "records").accuracies([GOOD], Rung(1, 3, repeats=2)) == [3.25]
    assert len(trainer.asked) == 2


def test_a_failed_training_succeeds_in_a_later_start(tmp_path: Path) -> None:
    trainer = Trainer()
    trainings = trainer.started_again(tmp_path / "records")
    for _ in range(2):  # the second time, nothing is trained
        good, bad = trainings.accuracies([GOOD, BAD], Rung(2, 1))
        assert (good, math.isnan(bad)) == (1.0, True)
    assert len(trainer.asked) == 2
    trainer.repaired = True
    assert trainer.started_again(tmp_path / "records").accuracies([GOOD, BAD], Rung(2, 1)) == [1.0, 1.0]
    assert [one.spec for one in trainer.asked[2:]] == [BAD]


def test_a_training_that_always_fails_is_not_attempted_for_ever(tmp_path: Path) -> None:
    trainer = Trainer()
    for _ in range(MAX_ATTEMPTS + 2):
        (found,) = trainer.started_again(tmp_path / "records").accuracies([BAD], Rung(1, 1))
        assert math.isnan(found)
    assert len(trainer.asked) == MAX_ATTEMPTS
    assert "NaN" not in (tmp_path / "records").read_text()
    trainer.started_again(tmp_path / "records", "other data").accuracies([BAD], Rung(1, 1))
    assert len(trainer.asked) == MAX_ATTEMPTS + 1
