"""The iterable form of a split: every sample once, whatever the workers, ranks and interruptions."""

import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.data import DataLoader, IterableDataset

from common.errors import InvalidArgument
from deepseek.data.manifest import DatasetManifest, Field, Shard
from deepseek.data.sample import Sample
from deepseek.data.shard_cache import ShardCache
from deepseek.data.shards import encode_shard
from deepseek.data.stored import StoredDataset
from tests.deepseek.data.samples import ShardFolder

FIELDS = (Field("n", "integer"),)
SIZES = (7, 9, 3, 12)
COUNT = sum(SIZES)


@pytest.fixture
def dataset(tmp_path: Path) -> StoredDataset:
    source, shards, numbers = ShardFolder(), [], itertools.count()
    for size in SIZES:
        data = encode_shard([Sample(f"k{n}", "train", {"n": n}) for n in itertools.islice(numbers, size)], FIELDS)
        shards.append(Shard(source.put(data), len(data), size))
    cache = ShardCache(tmp_path / "cache", lambda sha256, path: source.fetch("default", sha256, path))
    manifest = DatasetManifest(FIELDS, {"train": tuple(shards)})
    stored = StoredDataset(manifest, "train", cache, transform=lambda sample: sample["n"])
    stored.download()
    return stored


@pytest.mark.parametrize("window", [None, 2])
def test_each_iteration_is_an_epoch_in_another_order(dataset: StoredDataset, window: int | None) -> None:
    samples = dataset.iterable(seed=3, window=window)
    assert isinstance(samples, IterableDataset)
    epochs = [list(samples) for _ in range(2)]
    assert [sorted(epoch) for epoch in epochs] == [list(range(COUNT))] * 2
    assert epochs[0] != epochs[1]
    assert samples.state_dict() == {"seed": 3, "epoch": 2, "position": 0}
    assert list(dataset.iterable(shuffle=False)) == list(range(COUNT))


@pytest.mark.parametrize("world_size", [1, 2])
def test_workers_and_ranks_share_the_samples(dataset: StoredDataset, world_size: int) -> None:
    seen: list[int] = []
    for rank in range(world_size):
        samples = dataset.iterable(seed=1, rank=rank, world_size=world_size)
        loader: DataLoader[Any] = DataLoader(samples, batch_size=4, num_workers=2, multiprocessing_context="fork")
        seen += [int(n) for batch in loader for n in batch]
    assert sorted(seen) == list(range(COUNT))


def test_new_workers_read_the_epoch_that_was_set(dataset: StoredDataset) -> None:
    samples = dataset.iterable(seed=1)
    loader: DataLoader[Any] = DataLoader(samples, batch_size=4, num_workers=1, multiprocessing_context="fork")
    epochs = []
    for epoch in range(2):
        samples.set_epoch(epoch)
        epochs.append([int(n) for batch in loader for n in batch])
    again = dataset.iterable(seed=1)
    assert epochs == [list(again), list(again)]


def test_a_state_resumes_with_another_number_of_ranks(dataset: StoredDataset) -> None:
    seen: list[int] = []
    state = dataset.iterable(seed=5).state_dict()
    for world_size, num_steps in ((1, 5), (3, 4), (2, COUNT)):
        ranks = [dataset.iterable(seed=5, rank=rank, world_size=world_size) for rank in range(world_size)]
        for samples in ranks:
            samples.load_state_dict(state)
            seen += itertools.islice(samples, num_steps)
        state = ranks[0].state_dict()
    assert sorted(seen) == list(range(COUNT))
    assert state == {"seed": 5, "epoch": 1, "position": 0}


def test_a_sample_that_fails_is_read_again(dataset: StoredDataset, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = dataset.iterable(shuffle=False)
    stream = iter(samples)
    assert [next(stream) for _ in range(3)] == [0, 1, 2]
    with monkeypatch.context() as patch:
        patch.setattr(StoredDataset, "__getitem__", lambda self, index: np.ones(2)[index + 2])
        with pytest.raises(IndexError):
            next(stream)
    assert samples.state_dict()["position"] == 3
    assert next(iter(samples)) == 3


@pytest.mark.parametrize(
    ("options", "field"), [({"rank": 2}, "rank"), ({"window": 0}, "window"), ({"seed": -1}, "seed")]
)
def test_wrong_arguments_are_named(dataset: StoredDataset, options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        dataset.iterable(**options)
    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", field)
    with pytest.raises(InvalidArgument) as caught:
        dataset.iterable().load_state_dict({"seed": 0, "epoch": 0, "position": COUNT + 1})
    assert (caught.value.reason, caught.value.field) == ("BAD_STATE", "position")
