"""Samples of a version in any order, from a local cache with a budget."""

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch.utils.data import DataLoader

from common.errors import DataLoss, FailedPrecondition, InvalidArgument, ResourceExhausted
from deepseek.data.manifest import DatasetManifest, Field, Shard
from deepseek.data.media import decode_image
from deepseek.data.sample import Sample
from deepseek.data.shard_cache import ShardCache
from deepseek.data.shards import encode_shard
from deepseek.data.stored import StoredDataset
from tests.deepseek.data.samples import FIELDS, ShardFolder, question_sample, sound_file

EVERYTHING = (
    *FIELDS,
    Field("sound", "audio"),
    Field("kind", "label", labels=("a", "b")),
    Field("n", "integer"),
    Field("x", "number"),
    Field("raw", "bytes"),
)


def sample(number: int) -> Sample:
    more = {"sound": sound_file(400), "kind": "ab"[number % 2], "n": number, "x": number / 2, "raw": bytes([number])}
    base = question_sample(number)
    return Sample(base.key, base.split, {**base.values, **more})


class Stored:
    """A version with shards of five samples."""

    def __init__(self, folder: Path, samples: Sequence[Sample], fields: Sequence[Field] = EVERYTHING) -> None:
        self.source = ShardFolder()
        self.folder = folder
        shards = []
        for start in range(0, len(samples), 5):
            part = samples[start : start + 5]
            data = encode_shard(part, fields)
            shards.append(Shard(self.source.put(data), len(data), len(part)))
        self.manifest = DatasetManifest(tuple(fields), {"train": tuple(shards)})

    def fetch(self, sha256: str, path: Path) -> Path:
        return self.source.fetch("default", sha256, path)

    def open(self, *, max_bytes: int = 1 << 30, **options: Any) -> StoredDataset:
        cache = ShardCache(self.folder / "cache", self.fetch, max_bytes=max_bytes)
        return StoredDataset(self.manifest, "train", cache, **options)


@pytest.fixture
def stored(tmp_path: Path) -> Stored:
    return Stored(tmp_path, [sample(number) for number in range(13)])


def test_values_are_decoded_by_type(stored: Stored) -> None:
    dataset = stored.open()
    assert len(dataset) == 13
    for index in (12, 0, 7, -1):
        sent, got = sample(index % 13), dataset[index]
        assert dataset.key(index) == sent.key
        assert (got["image"] == np.asarray(decode_image(sent.values["image"]))).all()
        assert got["image"].dtype == np.uint8
        assert got["question"] == sent.values["question"]
        assert got["answer"] == [FIELDS[2].labels.index(one) for one in sent.values["answer"]]
        assert (got["sound"].shape, got["sound"].dtype) == ((400, 1), np.float32)
        assert (got["kind"], got["n"], got["x"], got["raw"]) == (
            index % 13 % 2,
            index % 13,
            index % 13 / 2,
            bytes([index % 13]),
        )


def test_files_can_be_left_as_they_are(stored: Stored) -> None:
    got = stored.open(decode=False, fields=["image", "n"])[3]
    assert got == {"image": sample(3).values["image"], "n": 3}


def test_a_transform_sees_each_sample(stored: Stored) -> None:
    assert stored.open(fields=["n"], transform=lambda one: one["n"] + 1)[4] == 5


@pytest.mark.parametrize("index", [13, -14])
def test_an_index_beyond_the_end_is_an_error(stored: Stored, index: int) -> None:
    with pytest.raises(IndexError):
        stored.open()[index]


def test_unknown_fields_and_splits_are_named(stored: Stored) -> None:
    with pytest.raises(InvalidArgument, match="its fields are: image"):
        stored.open(fields=["colour"])
    with pytest.raises(InvalidArgument, match="its splits are: train"):
        StoredDataset(stored.manifest, "test", ShardCache(stored.folder, stored.fetch))


def test_each_shard_is_fetched_once_and_found_by_the_next_process(stored: Stored) -> None:
    dataset = stored.open()
    assert [dataset[i]["n"] for i in (0, 12, 1, 7, 12)] == [0, 12, 1, 7, 12]
    assert stored.source.num_fetches == 3
    progress: list[tuple[int, int]] = []
    stored.open().download(on_shard=lambda *counts: progress.append(counts))
    assert progress == [(1, 3), (2, 3), (3, 3)]
    assert stored.source.num_fetches == 3


def test_the_cache_stays_within_its_budget(stored: Stored) -> None:
    largest = max(path.stat().st_size for path in _files(stored, 1 << 30))
    files = _files(stored, 2 * largest)
    assert 1 <= len(files) <= 2
    assert sum(path.stat().st_size for path in files) <= 2 * largest
    dataset = stored.open(max_bytes=1)
    assert [dataset[i]["n"] for i in (0, 12, 0)] == [0, 12, 0]
    assert not list((stored.folder / "cache").glob("tmp-*"))


def _files(stored: Stored, max_bytes: int) -> list[Path]:
    for path in (stored.folder / "cache").glob("*"):
        path.unlink()
    stored.open(max_bytes=max_bytes).download()
    return list((stored.folder / "cache").glob("*.arrow"))


def test_a_file_that_was_cut_short_is_fetched_again(stored: Stored) -> None:
    for path in _files(stored, 1 << 30):
        path.write_bytes(path.read_bytes()[:100])
    assert [stored.open()[i]["n"] for i in (2, 12)] == [2, 12]


def test_a_damaged_shard_is_refused(stored: Stored) -> None:
    first = stored.manifest.splits["train"][0]
    stored.source.blobs[first.sha256] = stored.source.blobs[first.sha256][:-20]
    with pytest.raises(DataLoss) as caught:
        stored.open()[0]
    assert caught.value.reason == "BLOB_DAMAGED"
    assert stored.open()[6]["n"] == 6


def test_a_shard_with_other_columns_or_rows_is_refused(stored: Stored) -> None:
    first, *others = stored.manifest.splits["train"]
    other = encode_shard([Sample("a", "train", {"n": 1})], [Field("n", "integer")])
    short = encode_shard([sample(1)], EVERYTHING)
    for data, words in ((other, "columns differ"), (short, "has 1 samples, not 5")):
        shard = Shard(stored.source.put(data), len(data), first.num_samples)
        manifest = DatasetManifest(stored.manifest.fields, {"train": (shard, *others)})
        with pytest.raises(DataLoss, match=words):
            StoredDataset(manifest, "train", ShardCache(stored.folder / "cache", stored.fetch))[0]


def test_a_full_disk_is_said(stored: Stored, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(sha256: str, path: Path) -> None:
        raise OSError(28, "No space left on device")

    cache = ShardCache(stored.folder / "cache", full)
    with pytest.raises(ResourceExhausted) as caught:
        StoredDataset(stored.manifest, "train", cache)[0]
    assert caught.value.reason == "DISK_FULL"


def _first(batch: list[Any]) -> list[int]:
    return [one["n"] for one in batch]


def test_workers_read_what_was_downloaded(stored: Stored) -> None:
    dataset = stored.open(fields=["n"])
    dataset.download()
    loader: DataLoader[Any] = DataLoader(dataset, 4, num_workers=2, collate_fn=_first, multiprocessing_context="fork")  # type: ignore[arg-type]  # a data set need not inherit
    assert [n for batch in loader for n in batch] == list(range(13))


def test_a_forked_worker_cannot_download(stored: Stored) -> None:
    loader: DataLoader[Any] = DataLoader(
        stored.open(fields=["n"]),  # type: ignore[arg-type]  # a data set need not inherit
        4,
        num_workers=1,
        multiprocessing_context="fork",
    )
    with pytest.raises((FailedPrecondition, RuntimeError), match=r"SHARD_NOT_CACHED|call `download"):
        next(iter(loader))


def test_batches_of_torch_are_tensors(stored: Stored) -> None:
    dataset = stored.open(fields=["image", "n", "kind"])
    batch = next(iter(DataLoader(dataset, 4)))  # type: ignore[arg-type]  # a data set need not inherit
    assert batch["image"].shape[0] == 4
    assert batch["n"].tolist() == [0, 1, 2, 3]
    assert batch["kind"].dtype == torch.int64


def test_a_data_set_cannot_be_sent_to_another_process_half_open(stored: Stored) -> None:
    with pytest.raises((TypeError, AttributeError, pickle.PicklingError)):
        pickle.dumps(stored.open())


def test_null_values_in_a_list_are_refused(tmp_path: Path) -> None:
    fields = (Field("n", "integer", repeated=True),)
    good = pq.read_table(io.BytesIO(encode_shard([Sample("a", "train", {"n": [1, 2]})], fields)))
    bad = good.set_column(3, good.schema.field("n"), pa.array([[1, None]], good.schema.field("n").type))
    sink = io.BytesIO()
    pq.write_table(bad, sink)
    source = ShardFolder()
    shard = Shard(source.put(sink.getvalue()), len(sink.getvalue()), 1)
    cache = ShardCache(tmp_path / "cache", lambda sha256, path: source.fetch("default", sha256, path))
    with pytest.raises(DataLoss, match="a value is missing"):
        StoredDataset(DatasetManifest(fields, {"train": (shard,)}), "train", cache)[0]
