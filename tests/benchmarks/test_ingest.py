"""The comparison of imports and readers: its pictures, its measurements and its summary."""

import io
import itertools
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks import ingest_memory
from benchmarks.ingest import decode_s, summary
from benchmarks.ingest_data import LABELS, SIZE, Data, peer, pictures, write_files, write_shards
from benchmarks.ingest_memory import Peak
from benchmarks.ingest_readers import ours
from common.errors import FailedPrecondition
from deepseek.client.datasets import Datasets

NUM_IMAGES = 150


def test_the_pictures_are_small_and_always_the_same() -> None:
    found = list(pictures(20))
    assert found == list(itertools.islice(pictures(30), 20))
    assert {label for label, _ in found} <= set(LABELS)
    assert all(Image.open(io.BytesIO(file)).size == (SIZE, SIZE) and len(file) < 8000 for _, file in found)


def test_our_readers_read_every_picture_that_was_imported(tmp_path: Path) -> None:
    data = Data(tmp_path / "pictures", NUM_IMAGES)
    write_files(data)
    write_shards(data)
    sent = [LABELS.index(label) for label, _ in pictures(NUM_IMAGES)]
    for num_readers, shuffle in ((1, True), (2, False)):
        batches = list(ours(data, num_readers, shuffle=shuffle))
        assert sorted(int(label) for batch in batches for label in batch["label"]) == sorted(sent)
        assert batches[0]["image"].shape == (64, SIZE, SIZE, 3)
    assert decode_s(data) > 0


def test_the_smaller_ratio_of_one_and_two_readers_counts() -> None:
    rates = {f"{name}_{n}": 100.0 for name in ("ours", "sequential", "litdata", "webdataset") for n in (1, 2)}
    read: dict[str, Any] = {"part": "read", **rates, "litdata_2": 80.0, "webdataset_1": 50.0, "sequential_2": 125.0}
    write = {"part": "write", "import": 80.0, "decode": 100.0, "litdata_writer": 10.0}
    result = summary([{**part, "round": number} for part in (read, write) for number in range(3)])
    assert (result["vs_litdata"], result["vs_litdata_1"], result["vs_litdata_2"]) == (1.0, 1.0, 1.25)
    assert (result["vs_webdataset"], result["vs_webdataset_interval"]) == (1.0, [1.0, 1.0])
    assert result["shuffled_ratio"] == result["write_vs_decode"] == 0.8
    assert (result["write_vs_litdata"], result["import_per_s"]) == (8.0, 80.0)
    assert result["memory_growth_mib"] is None
    memory = {"part": "memory", "round": 0, "import_mib": 2.0, "read_mib": 1.0}
    assert summary([{**read, "round": 0}, {**write, "round": 0}, memory])["memory_growth_mib"] == 2.0


def test_memory_may_grow_only_during_the_warm_up(monkeypatch: pytest.MonkeyPatch) -> None:
    used = iter([100, 300, 280, 350, 320])
    monkeypatch.setattr(ingest_memory, "anonymous_bytes", lambda pid: next(used))
    peak = Peak(100, [1])
    for num_done in (10, 20, 40, 60, 100):
        peak.note(num_done)
    assert peak.growth == 50


def test_the_memory_of_an_import_that_keeps_invalid_samples_aside_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked, upload = [], Datasets.upload

    def recorded(self: Datasets, *arguments: Any, **options: Any) -> Any:
        asked.append(options["quarantine"])
        return upload(self, *arguments, **options)

    monkeypatch.setattr(Datasets, "upload", recorded)
    growth = ingest_memory.memory_growth(tmp_path, 20_000)
    assert asked == [True]
    assert sorted(growth) == ["import_mib", "read_mib"]


def test_a_missing_peer_is_named_with_the_command_that_installs_it() -> None:
    with pytest.raises(FailedPrecondition, match=r"pip install 'deepseek-mesh\[peers\]'") as caught:
        peer("no_such_package")
    assert caught.value.reason == "PACKAGE_MISSING"
