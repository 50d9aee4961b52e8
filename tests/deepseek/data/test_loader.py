"""The loader: every sample once, whatever the threads, ranks and interruptions."""

import contextlib
import itertools
import os
import random
import signal
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from common.errors import InvalidArgument
from deepseek.data.loader import Loader

SIZES = (7, 9, 3, 11, 8)


class Numbers:
    """A data set of numbers, in shards."""

    shard_sizes = SIZES

    def __init__(self, count: int = sum(SIZES)) -> None:
        self._count = count
        self.fails_at: int | None = None

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: int, /) -> Any:
        if index == self.fails_at:
            raise InvalidArgument("DAMAGED_IMAGE", f"sample {index} is damaged")
        return {"number": index, "row": np.full(2, index, np.float32)}


def numbers(batch: Any) -> list[int]:
    return [int(number) for number in batch["number"]]


def test_batches_are_tensors() -> None:
    batch = next(iter(Loader(Numbers(), 4, shuffle=False, num_threads=2)))
    assert batch["number"].tolist() == [0, 1, 2, 3]
    assert (batch["row"].dtype, batch["row"].shape) == (torch.float32, (4, 2))
    plain: DataLoader[Any] = DataLoader(Numbers(), 4)  # type: ignore[arg-type]  # a data set need not inherit
    assert torch.equal(batch["row"], next(iter(plain))["row"])


@pytest.mark.parametrize("window", [None, 1, 2, 10])
def test_every_sample_occurs_once_per_epoch_and_epochs_differ(window: int | None) -> None:
    loader = Loader(Numbers(), 5, seed=3, window=window, num_threads=3)
    epochs = [[number for batch in loader for number in numbers(batch)] for _ in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(sum(SIZES)))] * 2
    assert epochs[0] != epochs[1]
    assert loader.state() == {"seed": 3, "epoch": 2, "position": 0}


def test_a_window_keeps_shards_together() -> None:
    starts = np.cumsum([0, *SIZES])
    order = [number for batch in Loader(Numbers(), 5, seed=1, window=1) for number in numbers(batch)]
    shards = [int(np.searchsorted(starts, number, side="right")) - 1 for number in order]
    changes = sum(a != b for a, b in itertools.pairwise(shards))
    assert changes == len(SIZES) - 1
    assert shards != sorted(shards)
    within = [number for number, shard in zip(order, shards, strict=True) if shard == 3]
    assert within != sorted(within)


@pytest.mark.parametrize("num_threads", [1, 4])
def test_the_order_does_not_depend_on_the_threads(num_threads: int) -> None:
    one = [numbers(batch) for batch in Loader(Numbers(), 5, seed=9, num_threads=1, num_ahead=1)]
    assert [numbers(batch) for batch in Loader(Numbers(), 5, seed=9, num_threads=num_threads)] == one


def test_processes_give_the_same_batches_and_the_same_state() -> None:
    loader = Loader(Numbers(), 5, seed=9, num_processes=2)
    assert [numbers(batch) for batch in loader] == [numbers(batch) for batch in Loader(Numbers(), 5, seed=9)]
    assert loader.state() == {"seed": 9, "epoch": 1, "position": 0}
    batches = iter(loader)
    next(batches)
    assert loader.state() == {"seed": 9, "epoch": 1, "position": 5}
    batches.close()  # type: ignore[attr-defined]  # a generator


def test_an_error_in_a_process_is_the_error_of_the_sample() -> None:
    dataset = Numbers()
    dataset.fails_at = 7
    loader, got = Loader(dataset, 5, shuffle=False, num_processes=2), []
    with pytest.raises(InvalidArgument, match="sample 7 is damaged") as caught:
        got.extend(numbers(batch) for batch in loader)
    assert (caught.value.reason, got, loader.state()["position"]) == ("DAMAGED_IMAGE", [[0, 1, 2, 3, 4]], 5)


KILLED_BY_ITS_PROCESS = """
import os, signal, time
from torch.utils.data._utils import worker
from deepseek.data.loader import Loader
from tests.deepseek.data.test_loader import Numbers

watchdog = worker.ManagerWatchdog

def late():
    parent = os.getppid()
    os.kill(parent, signal.SIGKILL)
    while os.getppid() == parent:
        time.sleep(0.01)
    return watchdog()

worker.ManagerWatchdog = late
next(iter(Loader(Numbers(), 5, num_processes=1)))
"""


def test_a_process_ends_with_a_parent_that_was_killed_before_pytorch_looked_at_it() -> None:
    command = [sys.executable, "-c", KILLED_BY_ITS_PROCESS]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as reader:
        try:
            reader.communicate(timeout=60)  # the process has the pipe, too, so this ends when both have ended
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(reader.pid, signal.SIGKILL)
    assert reader.returncode == -signal.SIGKILL


@pytest.mark.parametrize("seed", range(5))
def test_kills_and_other_numbers_of_ranks_lose_and_repeat_nothing(seed: int) -> None:
    draw = random.Random(seed)
    seen: list[int] = []
    state = {"seed": seed, "epoch": 0, "position": 0}
    while state["epoch"] == 0:
        ranks = draw.choice([1, 2, 3])
        loaders = [Loader(Numbers(), 6, seed=seed, rank=r, world_size=ranks, num_threads=2) for r in range(ranks)]
        for loader in loaders:
            loader.load_state(state)
        steps = draw.randrange(1, 4)
        for _, parts in zip(range(steps), itertools.zip_longest(*loaders), strict=False):
            seen += [number for part in parts if part is not None for number in numbers(part)]
        state = loaders[0].state() if len(loaders[0]) else {**state, "epoch": 1}
    assert sorted(seen) == list(range(sum(SIZES)))


def test_a_state_counts_only_what_was_yielded() -> None:
    loader = Loader(Numbers(), 5, shuffle=False, num_threads=4, num_ahead=8)
    batches = iter(loader)
    next(batches)
    next(batches)
    assert loader.state()["position"] == 10
    assert len(loader) == 6
    batches.close()  # type: ignore[attr-defined]  # a generator
    assert numbers(next(iter(loader))) == [10, 11, 12, 13, 14]


def test_an_error_of_a_sample_is_raised_where_its_batch_is_due() -> None:
    dataset = Numbers()
    dataset.fails_at = 12
    loader = Loader(dataset, 5, shuffle=False, num_threads=2)
    got = []
    with pytest.raises(InvalidArgument, match="sample 12 is damaged"):
        got.extend(numbers(batch) for batch in loader)
    assert got == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    dataset.fails_at = None
    assert numbers(next(iter(loader))) == [10, 11, 12, 13, 14]


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"num_threads": 0}, "num_threads"),
        ({"num_ahead": 0}, "num_ahead"),
        ({"num_processes": -1}, "num_processes"),
        ({"window": 0}, "window"),
        ({"rank": 1}, "rank"),
        ({"world_size": 9, "rank": 0}, "batch_size"),
    ],
)
def test_wrong_arguments_are_named(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Loader(Numbers(), 5, **options)
    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", field)


def test_a_data_set_without_shards_has_no_windows() -> None:
    with pytest.raises(InvalidArgument, match="range has no shards"):
        Loader(range(5), 2, window=1)


def test_samples_of_different_shapes_need_a_collate_function() -> None:
    rows = [np.zeros(1), np.zeros(2)]
    with pytest.raises(InvalidArgument, match="give them one shape") as caught:
        next(iter(Loader(rows, 2)))
    assert caught.value.reason == "WRONG_SHAPE"
    assert len(next(iter(Loader(rows, 2, collate=list)))) == 2
