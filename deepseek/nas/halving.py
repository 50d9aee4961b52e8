"""Successive halving: many candidates get a short training, the best of them a longer one, and so on.

The method is that of Jamieson and Talwalkar 2016 (arXiv:1502.07943). Every rung trains from scratch, because the
learning-rate schedule of a run depends on its length.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from common.errors import InvalidArgument

CandidateT = TypeVar("CandidateT")


@dataclass(frozen=True)
class Rung:
    """One round of trainings.

    Attributes:
        entrants: Number of candidates that are trained; the best ones of the rung before.
        epochs: Epochs of a training.
        repeats: Number of trainings of a candidate, with different seeds; their scores are averaged.
    """

    entrants: int
    epochs: int
    repeats: int = 1


def check_rungs(rungs: Sequence[Rung], field: str = "rungs") -> None:
    """Checks that every rung has fewer entrants than the one before, or as many.

    Raises:
        InvalidArgument: BAD_VALUE at the rung.
    """
    if not rungs:
        raise InvalidArgument("BAD_VALUE", "there are no rungs; give at least one", field=field)
    for i, rung in enumerate(rungs):
        if min(rung.entrants, rung.epochs, rung.repeats) < 1:
            message = f"found {rung}; entrants, epochs and repeats must be at least 1"
            raise InvalidArgument("BAD_VALUE", message, field=f"{field}[{i}]")
        if i and rung.entrants > rungs[i - 1].entrants:
            message = f"{rung.entrants} entrants come from a rung of {rungs[i - 1].entrants}; use at most as many"
            raise InvalidArgument("BAD_VALUE", message, field=f"{field}[{i}].entrants")


def successive_halving(
    candidates: Sequence[CandidateT],
    rungs: Sequence[Rung],
    score: Callable[[Sequence[CandidateT], Rung], Sequence[float]],
) -> list[tuple[CandidateT, float]]:
    """Returns the candidates of the last rung with their scores there, the best first.

    Args:
        candidates: The candidates, the most promising first; the first rung takes as many as it has entrants.
        rungs: The rungs, in order.
        score: Function that trains candidates for a rung and returns their scores; more is better. NaN, for a training
            that failed, ranks last. Candidates with equal scores keep their order.

    Raises:
        InvalidArgument: BAD_VALUE, as for `check_rungs`.

    >>> rungs = [Rung(entrants=3, epochs=1), Rung(entrants=2, epochs=9)]
    >>> successive_halving([1.0, 2.0, 3.0, 4.0], rungs, lambda some, rung: [rung.epochs * one for one in some])
    [(3.0, 27.0), (2.0, 18.0)]
    """
    check_rungs(rungs)
    left, ranked = list(candidates), list[tuple[CandidateT, float]]()
    for rung in rungs:
        entrants = left[: rung.entrants]
        scores = score(entrants, rung)
        ranked = sorted(zip(entrants, scores, strict=True), key=lambda one: _order(one[1]))
        left = [candidate for candidate, _ in ranked]
    return ranked


def _order(score: float) -> tuple[bool, float]:
    return (True, 0.0) if math.isnan(score) else (False, -score)
