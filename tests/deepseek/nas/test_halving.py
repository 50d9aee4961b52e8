import math
from collections.abc import Sequence

import pytest

from common.errors import InvalidArgument
from deepseek.nas.halving import Rung, successive_halving


def test_the_best_of_each_rung_go_on_and_the_epochs_are_spent_on_few() -> None:
    asked: list[tuple[list[int], Rung]] = []

    def score(candidates: Sequence[int], rung: Rung) -> list[float]:
        asked.append((list(candidates), rung))
        return [float(-abs(candidate - 5)) for candidate in candidates]

    rungs = [Rung(8, 1), Rung(4, 2), Rung(1, 8, repeats=3)]
    assert successive_halving(range(20), rungs, score) == [(5, 0.0)]
    assert asked == [(list(range(8)), rungs[0]), ([5, 4, 6, 3], rungs[1]), ([5], rungs[2])]


def test_failed_trainings_rank_last_and_ties_keep_their_order() -> None:
    scores = {"a": math.nan, "b": 1.0, "c": 2.0, "d": 1.0}
    ranked = successive_halving(list(scores), [Rung(4, 1)], lambda some, rung: [scores[one] for one in some])
    assert [candidate for candidate, _ in ranked] == ["c", "b", "d", "a"]


def test_fewer_candidates_than_entrants_are_enough() -> None:
    assert successive_halving([7.0], [Rung(4, 1), Rung(2, 1)], lambda some, rung: list(some)) == [(7.0, 7.0)]


@pytest.mark.parametrize(
    ("rungs", "field"),
    [
        ([], "rungs"),
        ([Rung(2, 1), Rung(3, 1)], "rungs[1].entrants"),
        ([Rung(2, 0)], "rungs[0]"),
        ([Rung(2, 1, 0)], "rungs[0]"),
    ],
)
def test_rungs_that_make_no_sense_are_refused(rungs: list[Rung], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        successive_halving([1.0], rungs, lambda some, rung: list(some))
    assert caught.value.field == field
