"""Batches of a map-style data set, read ahead by threads or processes, with a state from which any rank can resume."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from common.cores import num_cores
from common.errors import InvalidArgument, MeshError
from common.scalars import whole_number
from deepseek.data.sampler import ResumableSampler

_FOLLOW_S = 1.0


class Dataset(Protocol):
    """A map-style data set."""

    def __len__(self) -> int:
        """Returns the number of samples."""

    def __getitem__(self, index: int, /) -> Any:
        """Returns a sample. Several threads may call this method at the same time."""


class Loader:
    """Yields the batches of one rank, epoch after epoch. Not thread-safe.

    Iteration yields the rank's share of each remaining batch of the current epoch. Threads decode the next batches
    meanwhile: decoders release the interpreter lock, so two threads use two cores. The state counts only batches that
    were yielded, not those read ahead. As the order of an epoch depends neither on the number of ranks nor on the
    number of threads, a state can be restored with another number of either. If the last batch of an epoch has fewer
    samples than there are ranks, the ranks without a sample get no batch.

    Small files keep the interpreter busy between the calls of the decoders, so processes are faster than threads for
    such files. With processes, all shards of a `StoredDataset` are downloaded before the first batch.

    Args:
        dataset: The data set.
        batch_size: Number of samples per batch, summed over all ranks; at least `world_size`.
        shuffle: Whether to shuffle the samples in each epoch.
        seed: Seed of the shuffled order.
        rank: Rank of this process.
        world_size: Number of ranks.
        num_threads: Number of threads; None means one per core.
        num_ahead: Number of batches to read ahead; None means two per thread or process.
        collate: Function that combines samples into a batch; None means that of `torch.utils.data.default_collate`.
        window: Number of consecutive shards that are shuffled together, for a data set that is larger than its cache:
            the shards of an epoch are shuffled, and then the samples of each window. None shuffles all samples
            together.
        num_processes: Number of processes that read and decode in place of threads; 0 means threads.

    Raises:
        InvalidArgument: BAD_VALUE, with the name of the invalid argument as the field.

    >>> loader = Loader(range(5), 2, shuffle=False, collate=list)
    >>> list(loader), loader.state()
    ([[0, 1], [2, 3], [4]], {'seed': 0, 'epoch': 1, 'position': 0})
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        *,
        shuffle: bool = True,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        num_threads: int | None = None,
        num_ahead: int | None = None,
        collate: Callable[[list[Any]], Any] | None = None,
        window: int | None = None,
        num_processes: int = 0,
    ) -> None:
        self._dataset = dataset
        self._num_threads = _positive(num_cores() if num_threads is None else num_threads, "num_threads")
        if (number := whole_number(num_processes, "num_processes")) < 0:
            raise InvalidArgument("BAD_VALUE", f"num_processes is {number}; use 0 or more", field="num_processes")
        self._num_processes = number
        self._num_ahead = _positive(2 * (number or self._num_threads) if num_ahead is None else num_ahead, "num_ahead")
        self._collate = collate
        self._sampler = sampler(
            dataset, batch_size, window=window, seed=seed, shuffle=shuffle, rank=rank, world_size=world_size
        )
        self._state = self._sampler.state()

    def __len__(self) -> int:
        """Returns the number of batches left in the current epoch."""
        left = self._sampler.num_samples - self._state["position"]
        return -(-left // self._sampler.batch_size)

    def __iter__(self) -> Iterator[Any]:
        self._sampler.load_state(self._state)
        epoch = self._state["epoch"]
        states: deque[dict[str, int]] = deque()

        def steps() -> Iterator[list[int]]:
            for indices in self._sampler:
                if indices:
                    states.append(self._sampler.state())
                    yield indices

        with closing(self._in_processes(steps()) if self._num_processes else self._in_threads(steps())) as batches:
            for batch in batches:
                self._state = states.popleft()
                yield batch
        self._state = {**self._state, "epoch": epoch + 1, "position": 0}

    def state(self) -> dict[str, int]:
        """Returns the state after the last batch that was yielded: `seed`, `epoch` and `position`."""
        return dict(self._state)

    def load_state(self, state: dict[str, Any]) -> None:
        """Restores a saved state; the next iteration continues from there.

        Raises:
            InvalidArgument: BAD_STATE; see `ResumableSampler.load_state`.
        """
        self._sampler.load_state(state)
        self._state = self._sampler.state()

    def _in_threads(self, steps: Iterable[Sequence[int]]) -> Generator[Any, None, None]:
        with ThreadPoolExecutor(self._num_threads, thread_name_prefix="loader") as pool:
            ahead: deque[Future[Any]] = deque()
            try:
                for indices in steps:
                    ahead.append(pool.submit(self._batch, indices))
                    if len(ahead) > self._num_ahead:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                for future in ahead:
                    future.cancel()

    def _in_processes(self, steps: Iterable[Sequence[int]]) -> Generator[Any, None, None]:
        from torch.utils.data import DataLoader

        if download := getattr(self._dataset, "download", None):
            download()
        batches: DataLoader[Any] = DataLoader(
            _Batches(self._batch),  # type: ignore[arg-type]  # needs no base class
            batch_size=None,  # each item is a batch
            sampler=steps,
            num_workers=self._num_processes,
            prefetch_factor=-(-self._num_ahead // self._num_processes),
            multiprocessing_context="fork",  # the processes share the open files of the cache
            collate_fn=_unchanged,
            worker_init_fn=partial(_follow, os.getpid()),
        )
        for batch in batches:
            if isinstance(batch, MeshError):
                raise batch
            yield batch

    def _batch(self, indices: Sequence[int]) -> Any:
        samples = [self._dataset[index] for index in indices]
        if self._collate:
            return self._collate(samples)
        try:
            return _stacked(samples)
        except (LookupError, RuntimeError, TypeError, ValueError) as error:
            message = f"the samples cannot be combined into a batch: {error}; give them one shape, or pass `collate`"
            raise InvalidArgument("WRONG_SHAPE", message, field="collate") from error


def _follow(parent: int, _number: int) -> None:
    """Ends this process when its parent has ended.

    PyTorch's processes check this, too, but run forever if the parent was killed while they started.
    """

    def wait() -> None:
        while os.getppid() == parent:
            time.sleep(_FOLLOW_S)
        os._exit(1)

    threading.Thread(target=wait, name="follow", daemon=True).start()


class _Batches:
    """The batches as a map-style data set, whose indices are lists of the indices of samples.

    A MeshError is returned instead of raised, because PyTorch would raise it again as a RuntimeError.
    """

    def __init__(self, batch: Callable[[Sequence[int]], Any]) -> None:
        self._batch = batch

    def __getitem__(self, indices: Sequence[int]) -> Any:
        try:
            return self._batch(indices)
        except MeshError as error:
            return error


def _unchanged(batch: Any) -> Any:
    return batch


def _stacked(samples: list[Any]) -> Any:
    """Combines samples as `torch.utils.data.default_collate` does, but copies each array only once."""
    import torch
    from torch.utils.data import default_collate

    if isinstance(samples[0], dict):
        return {name: _stacked([sample[name] for sample in samples]) for name in samples[0]}
    if isinstance(samples[0], np.ndarray):
        return torch.from_numpy(np.stack(samples))
    return default_collate(samples)


def sampler(dataset: Dataset, batch_size: int, *, window: int | None, **options: Any) -> ResumableSampler:
    """Returns the sampler of a data set.

    Args:
        dataset: The data set.
        batch_size: Number of samples per step, summed over all ranks.
        window: See `Loader`.
        **options: Further arguments of `ResumableSampler`.

    Raises:
        InvalidArgument: BAD_VALUE, with the name of the invalid argument as the field.
    """
    if window is None:
        return ResumableSampler(len(dataset), batch_size, **options)
    sizes = getattr(dataset, "shard_sizes", None)
    if sizes is None:
        message = f"a {type(dataset).__name__} has no shards; leave out `window`"
        raise InvalidArgument("BAD_VALUE", message, field="window")
    return _WindowSampler(sizes, _positive(window, "window"), batch_size, **options)


class _WindowSampler(ResumableSampler):
    """A sampler that shuffles the shards, and then the samples of each window of consecutive shards."""

    def __init__(self, shard_sizes: Sequence[int], window: int, batch_size: int, **options: Any) -> None:
        super().__init__(sum(shard_sizes), batch_size, **options)
        self._starts = np.cumsum([0, *shard_sizes])
        self._window = window

    def order(self, epoch: int) -> npt.NDArray[np.int64]:
        samples = super().order(epoch)
        if not self._shuffle:
            return samples
        ranks = np.empty_like(samples)  # position of each sample in the order of all samples
        ranks[samples] = np.arange(len(samples))
        num_shards = len(self._starts) - 1
        shards = np.argsort(np.random.PCG64([self._seed, epoch, 1]).random_raw(num_shards), kind="stable")
        parts = []
        for first in range(0, num_shards, self._window):
            chosen = shards[first : first + self._window]
            part = np.concatenate([np.arange(self._starts[one], self._starts[one + 1]) for one in chosen])
            parts.append(part[np.argsort(ranks[part], kind="stable")])
        return np.concatenate(parts)


def _positive(value: int, name: str) -> int:
    if (number := whole_number(value, name)) < 1:
        raise InvalidArgument("BAD_VALUE", f"{name} is {number}; it must be at least 1", field=name)
    return number
