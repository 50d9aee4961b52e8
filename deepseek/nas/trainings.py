"""The trainings of an architecture search, with their results.

Results are kept in records, so no training that succeeded is repeated. One that failed may have failed for a reason
that is gone, e.g. a full memory, so it is attempted again when the search is started again, up to `MAX_ATTEMPTS` times.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from math import isfinite, nan
from typing import Any, Generic

import numpy as np

from deepseek.nas.halving import Rung
from deepseek.nas.records import Records
from deepseek.nas.space import SpecT

MAX_ATTEMPTS = 3


@dataclass(frozen=True)
class Training(Generic[SpecT]):
    """A training that a search asks for.

    Attributes:
        spec: The network. It has a method `to_json`.
        epochs: Number of epochs.
        seed: Seed of the initial weights and the order of the samples.
    """

    spec: SpecT
    epochs: int
    seed: int


class Trainings(Generic[SpecT]):
    """Trains networks unless their results are known. Not thread-safe.

    Args:
        train: Function that trains networks and yields each training with its accuracy, in any order; NaN if it failed.
        key: Text that identifies the data and the settings of the trainings.
        records: Results of earlier trainings, to which new ones are added.

    Attributes:
        asked: All trainings whose results were asked for.
    """

    def __init__(
        self,
        train: Callable[[Sequence[Training[SpecT]]], Iterable[tuple[Training[SpecT], float]]],
        key: str,
        records: Records,
    ) -> None:
        self._train = train
        self._problem_key = key
        self._records = records
        self._failed: set[Training[SpecT]] = set()
        self.asked: set[Training[SpecT]] = set()

    def accuracies(
        self, specs: Sequence[SpecT], rung: Rung, on_done: Callable[[int], None] = lambda done: None
    ) -> list[float]:
        """Returns the accuracy of each network after the training of a rung: the mean over the repeats, NaN if one
        of them failed.

        Args:
            specs: The networks.
            rung: Epochs and repeats.
            on_done: Function that is called after each training with the number of trainings that are done.
        """
        trainings = [Training(spec, rung.epochs, seed) for spec in specs for seed in range(rung.repeats)]
        self.asked |= set(trainings)
        missing = [one for one in trainings if self._is_open(one)]
        done = len(trainings) - len(missing)
        for training, accuracy in self._train(missing) if missing else ():
            self._keep(training, accuracy)
            done += 1
            on_done(done)
        found = [self._accuracy(one) for one in trainings]
        return [float(np.mean(found[i : i + rung.repeats])) for i in range(0, len(found), rung.repeats)]

    def _is_open(self, training: Training[SpecT]) -> bool:
        if self._records.has("accuracy", self._key(training)) or training in self._failed:
            return False
        return self._num_failures(training) < MAX_ATTEMPTS

    def _keep(self, training: Training[SpecT], accuracy: float) -> None:
        if isfinite(accuracy):
            self._records.put("accuracy", self._key(training), accuracy)
        else:
            self._failed.add(training)
            self._records.put("failures", self._key(training), self._num_failures(training) + 1)

    def _accuracy(self, training: Training[SpecT]) -> float:
        key = self._key(training)
        return float(self._records.get("accuracy", key)) if self._records.has("accuracy", key) else nan

    def _num_failures(self, training: Training[SpecT]) -> int:
        key = self._key(training)
        return int(self._records.get("failures", key)) if self._records.has("failures", key) else 0

    def _key(self, training: Training[SpecT]) -> dict[str, Any]:
        spec: Any = training.spec
        return {
            "problem": self._problem_key,
            "spec": spec.to_json(),
            "epochs": training.epochs,
            "seed": training.seed,
        }


def in_order(
    trainings: Sequence[Training[SpecT]], train: Callable[[Training[SpecT]], float]
) -> Iterator[tuple[Training[SpecT], float]]:
    """Trains one network after the other; serves as `Problem.train` together with `functools.partial`."""
    for training in trainings:
        yield training, train(training)
