"""Which samples make up each step, so that training can stop anywhere and go on exactly, on any number of ranks.

The order of an epoch depends on (seed, epoch, number of samples) alone. A global batch is the next `batch_size` samples
of that order, and rank r takes every world_size-th of them from r on; so the same samples meet in the same step
whatever the world size is, and where a run stands is three numbers: seed, epoch, and samples consumed in the epoch.

The order is sorted by the raw output of a PCG64 generator: NumPy keeps that stream fixed for ever (NEP 19), which it
does not promise for `permutation`.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import InvalidArgument
from common.scalars import whole_number


class ResumableSampler:
    """A batch sampler with a state, for one rank.

    Iterating yields the rest of the current epoch and then stands at the start of the next one. The last batch of an
    epoch is as short as it is: ranks may differ by one sample, and may get an empty batch. Not thread-safe.

    Args:
        num_samples: Samples of the data set, at least 1.
        batch_size: Samples a step over all ranks together, at least world_size.
        seed: Seed of the order.
        shuffle: False keeps the stored order.
        rank: This rank.
        world_size: Number of ranks.

    Attributes:
        num_samples: Samples of the data set.
        epoch: Epochs completed.
        position: Samples consumed in the current epoch, over all ranks.

    Raises:
        InvalidArgument: BAD_VALUE with the argument's name as the field.

    >>> sampler = ResumableSampler(5, 2, shuffle=False)
    >>> list(sampler), sampler.epoch
    ([[0, 1], [2, 3], [4]], 1)
    """

    def __init__(
        self,
        num_samples: int,
        batch_size: int,
        *,
        seed: int = 0,
        shuffle: bool = True,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        num_samples, batch_size = whole_number(num_samples, "num_samples"), whole_number(batch_size, "batch_size")
        seed = whole_number(seed, "seed")
        if num_samples < 1:
            raise InvalidArgument("BAD_VALUE", "there are no samples", field="num_samples")
        if not 0 <= rank < world_size:
            raise InvalidArgument("BAD_VALUE", f"rank {rank} is not one of {world_size}", field="rank")
        if batch_size < world_size:
            message = f"a batch of {batch_size} samples cannot be shared by {world_size} ranks"
            raise InvalidArgument("BAD_VALUE", message, field="batch_size")
        if not 0 <= seed < 1 << 63:
            raise InvalidArgument("BAD_VALUE", f"seed {seed} is not from 0 to 2^63 - 1", field="seed")
        self.epoch = 0
        self.position = 0
        self.num_samples = num_samples
        self._batch_size = batch_size
        self._seed = seed
        self._shuffle = shuffle
        self._rank = rank
        self._world_size = world_size

    def __len__(self) -> int:
        """Steps left in the current epoch."""
        return -(-(self.num_samples - self.position) // self._batch_size)

    @property
    def steps_per_epoch(self) -> int:
        """Steps of a whole epoch."""
        return -(-self.num_samples // self._batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        order = self.order(self.epoch)
        while self.position < self.num_samples:
            batch = order[self.position : self.position + self._batch_size]
            self.position += len(batch)
            yield batch[self._rank :: self._world_size].tolist()
        self.epoch += 1
        self.position = 0

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        """Returns the order of an epoch's samples, int64 [num_samples]; the same on every rank."""
        if not self._shuffle:
            return np.arange(self.num_samples)
        keys = np.random.PCG64([self._seed, epoch]).random_raw(self.num_samples)
        return np.argsort(keys, kind="stable")

    def state(self) -> dict[str, int]:
        """Returns where the sampler stands: after the last batch it gave out."""
        return {"seed": self._seed, "epoch": self.epoch, "position": self.position}

    def load_state(self, state: dict[str, Any]) -> None:
        """Goes on from a state; batch size and world size may be others than when it was taken.

        Raises:
            InvalidArgument: BAD_STATE if it is not such a state, or not of this data set and seed.
        """
        numbers = [state.get(key) for key in ("seed", "epoch", "position")]
        if len(state) != 3 or not all(type(number) is int and number >= 0 for number in numbers):
            raise InvalidArgument("BAD_STATE", "a sampler's state is three numbers: seed, epoch, position")
        if state["seed"] != self._seed:
            message = f"the state is of seed {state['seed']}, the sampler of seed {self._seed}"
            raise InvalidArgument("BAD_STATE", message, field="seed")
        if state["position"] > self.num_samples:
            message = f"the state is at sample {state['position']} of {self.num_samples}: another data set's"
            raise InvalidArgument("BAD_STATE", message, field="position")
        self.epoch = state["epoch"]
        self.position = state["position"]
