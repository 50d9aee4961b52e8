"""A split of a data set version as a stream of samples: an iterable data set for PyTorch, with a state."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import IterableDataset, get_worker_info

from common.scalars import whole_number
from deepseek.data.loader import Dataset, sampler


class StoredIterable(IterableDataset[Any]):
    """Yields the samples of one rank; each iteration yields the rest of an epoch. Made by `StoredDataset.iterable`.

    In a worker of a `torch.utils.data.DataLoader`, only this worker's share of the samples is yielded, so no sample
    occurs twice. The ranks and workers take turns: if the number of samples is not a multiple of their number, some
    yield one sample fewer than others.

    `state_dict` counts the samples that this object has yielded, assuming that the other ranks have yielded as many.
    Without workers, the state can therefore be loaded with another number of ranks. Each worker has a copy of this
    object with its own state. `torchdata.stateful_dataloader.StatefulDataLoader` saves these states; with PyTorch's own
    `DataLoader`, use `deepseek.data.loader.Loader` to resume within an epoch.

    Args:
        dataset: The split.
        shuffle: Whether to shuffle the samples in each epoch.
        seed: Seed of the shuffled order.
        rank: Rank of this process.
        world_size: Number of ranks.
        window: Number of consecutive shards that are shuffled together; see `Loader`.

    Raises:
        InvalidArgument: BAD_VALUE, with the name of the invalid argument as the field.
    """

    def __init__(
        self,
        dataset: Dataset,
        *,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        window: int | None = None,
    ) -> None:
        self._dataset = dataset
        self._options: dict[str, Any] = {"window": window, "shuffle": shuffle, "seed": seed}
        self._rank, self._world_size = rank, world_size
        self._state = sampler(dataset, world_size, rank=rank, world_size=world_size, **self._options).state()

    def __iter__(self) -> Iterator[Any]:
        worker = get_worker_info()
        num_workers, number = (worker.num_workers, worker.id) if worker else (1, 0)
        num_readers = self._world_size * num_workers
        rank = self._rank * num_workers + number
        steps = sampler(self._dataset, num_readers, rank=rank, world_size=num_readers, **self._options)
        steps.load_state(self._state)
        for indices in steps:  # at most one per reader
            samples = [self._dataset[index] for index in indices]
            self._state = steps.state()
            yield from samples
        self._state = steps.state()

    def set_epoch(self, epoch: int) -> None:
        """Selects the epoch of the next iteration, which starts with its first sample.

        Call this before each epoch if a `DataLoader` starts new workers for every epoch, as it does by default. New
        workers begin with the state of this object, which in this case does not advance by itself.
        """
        self.load_state_dict({**self._state, "epoch": whole_number(epoch, "epoch"), "position": 0})

    def state_dict(self) -> dict[str, int]:
        """Returns the state after the last sample that was yielded: `seed`, `epoch` and `position`."""
        return dict(self._state)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores a saved state; the next iteration continues from there.

        Raises:
            InvalidArgument: BAD_STATE; see `ResumableSampler.load_state`.
        """
        options = {"rank": self._rank, "world_size": self._world_size, **self._options}
        steps = sampler(self._dataset, self._world_size, **options)
        steps.load_state(state)
        self._state = steps.state()
