"""Selects the samples of each training step, so that training can resume exactly where it stopped.

The order of the samples in an epoch depends only on the seed, the epoch and the number of samples. A step consumes the
next `batch_size` samples of that order. Of these, rank r takes every `world_size`-th sample, starting at index r. So
the samples of a step do not depend on the world size, and a run can resume on a different number of ranks. Three
numbers define how far a run has got: the seed, the epoch, and the number of samples consumed in the epoch. The order is
computed from the raw output of PCG64, because NumPy guarantees that this output stays the same across releases (NEP
19). It gives no such guarantee for `Generator.permutation`.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import InvalidArgument
from common.scalars import whole_number


class ResumableSampler:
    """A batch sampler for one rank. Its state can be saved and restored. Not thread-safe.

    Iteration yields the rank's share of each remaining batch in the current epoch, and ends when the epoch is complete.
    The next iteration continues with the next epoch. The last batch of an epoch may be short. Some ranks then get one
    sample fewer than others, and may even get an empty list.

    Args:
        num_samples: Number of samples in the data set, at least 1.
        batch_size: Total number of samples per step over all ranks; at least `world_size`.
        seed: Seed of the shuffled order.
        shuffle: Whether to shuffle the samples in each epoch. If False, the stored order is used.
        rank: Rank of this process.
        world_size: Number of ranks.

    Attributes:
        num_samples: Number of samples in the data set.
        epoch: Number of completed epochs.
        position: Total number of samples that all ranks have consumed in the current epoch.

    Raises:
        InvalidArgument: BAD_VALUE, with the name of the invalid argument as the field.

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
            message = f"num_samples is {num_samples}; it must be at least 1"
            raise InvalidArgument("BAD_VALUE", message, field="num_samples")
        if not 0 <= rank < world_size:
            raise InvalidArgument("BAD_VALUE", f"rank is {rank}; it must be from 0 to {world_size - 1}", field="rank")
        if batch_size < world_size:
            message = f"batch_size is {batch_size}; it must be at least {world_size}, one sample per rank"
            raise InvalidArgument("BAD_VALUE", message, field="batch_size")
        if not 0 <= seed < 1 << 63:
            raise InvalidArgument("BAD_VALUE", f"seed is {seed}; it must be from 0 to 2^63 - 1", field="seed")
        self.epoch = 0
        self.position = 0
        self.num_samples = num_samples
        self._batch_size = batch_size
        self._seed = seed
        self._shuffle = shuffle
        self._rank = rank
        self._world_size = world_size

    def __len__(self) -> int:
        """Returns the number of steps left in the current epoch."""
        return -(-(self.num_samples - self.position) // self._batch_size)

    @property
    def batch_size(self) -> int:
        """Number of samples per step, summed over all ranks."""
        return self._batch_size

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps in a whole epoch."""
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
        """Returns the sample indices of an epoch in order, int64 [num_samples]. The order is the same on all ranks."""
        if not self._shuffle:
            return np.arange(self.num_samples)
        keys = np.random.PCG64([self._seed, epoch]).random_raw(self.num_samples)
        return np.argsort(keys, kind="stable")

    def state(self) -> dict[str, int]:
        """Returns the state of the sampler after the last batch that it has yielded."""
        return {"seed": self._seed, "epoch": self.epoch, "position": self.position}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores a saved state. Batch size and world size may differ from those with which the state was saved.

        Raises:
            InvalidArgument: BAD_STATE if the state is invalid, has a different seed, or has a position beyond the end
                of this data set.
        """
        numbers = [state.get(key) for key in ("seed", "epoch", "position")]
        if len(state) != 3 or not all(type(number) is int and number >= 0 for number in numbers):
            message = "the sampler's state must be three non-negative integers: seed, epoch, position"
            raise InvalidArgument("BAD_STATE", message)
        if state["seed"] != self._seed:
            message = f"the state has the seed {state['seed']}, but the sampler has the seed {self._seed}"
            raise InvalidArgument("BAD_STATE", message, field="seed")
        if state["position"] > self.num_samples:
            message = f"the state is at sample {state['position']}; this data set has only {self.num_samples} samples"
            raise InvalidArgument("BAD_STATE", message, field="position")
        self.epoch = state["epoch"]
        self.position = state["position"]
