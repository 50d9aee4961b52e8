"""The compared readers of `benchmarks.ingest`: each yields batches of decoded pictures, in a new order in each epoch.

All readers decode with the same function as our data sets, so they differ only in how they find samples, decode in
parallel, and combine samples. A single reader decodes in the process that takes the batches; two readers are separate
processes.
"""

import multiprocessing
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import default_collate

from benchmarks.ingest_data import Data, peer
from common.errors import NotFound
from deepseek.data.loader import Loader
from deepseek.data.manifest import DatasetManifest
from deepseek.data.shard_cache import ShardCache
from deepseek.data.stored import StoredDataset, pixels

BATCH_SIZE = 64
NUM_WARM_UP = 4
"""Number of batches that are not measured, because the workers are still starting."""
BUFFER_SAMPLES = 1000
"""Size of webdataset's shuffle buffer."""

Batches = Iterator[dict[str, Any]]


def ours(data: Data, num_readers: int, *, shuffle: bool = True) -> Batches:
    """Yields the batches of our loader."""

    def no_mesh(sha256: str, path: Path) -> None:
        raise NotFound("BLOB_NOT_FOUND", f"the cache lacks the shard {sha256}")

    manifest = DatasetManifest.from_bytes(data.manifest.read_bytes())
    dataset = StoredDataset(manifest, "train", ShardCache(data.cache, no_mesh), fields=["image", "label"])
    num_processes = 0 if num_readers == 1 else num_readers
    return iter(Loader(dataset, BATCH_SIZE, shuffle=shuffle, num_threads=1, num_processes=num_processes))


def litdata(data: Data, num_readers: int) -> Batches:
    """Yields the batches of litdata's `StreamingDataLoader`."""
    package = peer("litdata")

    class Pictures(package.StreamingDataset):  # type: ignore[misc, name-defined]  # imported on demand
        def __getitem__(self, index: Any) -> dict[str, Any]:
            sample = super().__getitem__(index)
            return {"image": pixels(sample["image"]), "label": sample["label"]}

    dataset = Pictures(str(data.litdata), shuffle=True)
    return iter(package.StreamingDataLoader(dataset, batch_size=BATCH_SIZE, num_workers=_num_workers(num_readers)))


def webdataset(data: Data, num_readers: int) -> Batches:
    """Yields the batches of webdataset's `WebLoader`, which shuffles the archives and uses a shuffle buffer."""
    package = peer("webdataset")
    archives = sorted(str(path) for path in data.webdataset.glob("*.tar"))
    dataset = package.WebDataset(archives, shardshuffle=len(archives)).shuffle(BUFFER_SAMPLES).map(_decoded)
    batches = dataset.batched(BATCH_SIZE, collation_fn=default_collate)
    return iter(package.WebLoader(batches, batch_size=None, num_workers=_num_workers(num_readers)))


READERS: dict[str, Callable[[Data, int], Batches]] = {"ours": ours, "litdata": litdata, "webdataset": webdataset}


def rates(data: Data, number: int) -> dict[str, float]:
    """Reads one epoch with each reader, and returns the samples per second.

    Args:
        data: The pictures.
        number: Number of the round, which determines the order of the readers.

    Returns:
        The rate of each reader by its name and the number of readers, e.g. `litdata_2`; also that of our loader without
        shuffling.
    """
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # the default, except in spawned processes
    cases: dict[str, Callable[[], Batches]] = {}
    for num_readers in (1, 2):
        for name, reader in READERS.items():
            cases[f"{name}_{num_readers}"] = partial(reader, data, num_readers)
        cases[f"sequential_{num_readers}"] = partial(ours, data, num_readers, shuffle=False)
    names = list(cases)
    turn = number % len(names)
    return {name: _rate(cases[name](), data.num_images) for name in names[turn:] + names[:turn]}


def _rate(batches: Batches, num_images: int) -> float:
    """Returns the samples per second of the batches after the first ones."""
    num_read = 0
    for _ in range(NUM_WARM_UP):
        num_read += len(next(batches)["label"])
    num_before, start = num_read, time.perf_counter()
    for batch in batches:
        num_read += len(batch["label"])
    seconds = time.perf_counter() - start
    if num_read != num_images:
        raise RuntimeError(f"{num_read} of {num_images} samples were read")
    return (num_read - num_before) / seconds


def _decoded(sample: dict[str, Any]) -> dict[str, Any]:
    return {"image": pixels(sample["jpg"]), "label": int(sample["cls"])}


def _num_workers(num_readers: int) -> int:
    return 0 if num_readers == 1 else num_readers
