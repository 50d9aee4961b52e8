"""Uploads through the client, also across a service that is killed half-way."""

import os
import random
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import InvalidArgument, Unavailable
from deepseek.client import Mesh, ServiceAddress
from deepseek.data.loader import Loader
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample
from deepseek.data.shard_cache import ShardCache
from deepseek.data.stored import StoredDataset
from deepseek.embedded import EmbeddedMesh
from deepseek.upkeep.garbage import collect
from tests.harness.proxy import Proxy

FIELDS = (
    Field("text", "text", repeated=False, labels=()),
    Field("score", "number", repeated=True, labels=()),
)


def samples(count: int, *, size: int = 10) -> list[Sample]:
    return [Sample(f"k{i}", "train", {"text": f"{i} " * size, "score": [i, i / 2]}) for i in range(count)]


def test_samples_come_back_as_they_were_sent(mesh: Mesh) -> None:
    version = mesh.datasets.upload("plain", FIELDS, samples(300))
    assert version.num_samples == 300
    read = list(mesh.datasets.read(version.name))
    assert [sample.key for sample in read] == [f"k{i}" for i in range(300)]
    assert [value.number for value in read[7].fields[1].values] == [7.0, 3.5]


def test_equal_data_is_the_same_version_and_adds_no_blob(mesh: Mesh) -> None:
    first = mesh.datasets.upload("twice", FIELDS, samples(50))
    blobs = set(mesh.store.list(mesh.tenant))
    assert mesh.datasets.upload("twice", FIELDS, samples(50)) == first
    assert set(mesh.store.list(mesh.tenant)) == blobs
    assert [v.name for v in mesh.datasets.versions("twice")] == [first.name]
    assert "datasets/twice" in [dataset.name for dataset in mesh.datasets.list()]


def test_a_deleted_version_is_garbage_but_its_equal_is_not(mesh: Mesh) -> None:
    gone = mesh.datasets.upload("gone", FIELDS, samples(40, size=3))
    shared = mesh.datasets.upload("shared", FIELDS, samples(60, size=3))
    also = mesh.datasets.upload("also-shared", FIELDS, samples(60, size=3))
    mesh.datasets.delete("gone:1")
    with pytest.raises(InvalidArgument, match="every=True"):
        mesh.datasets.delete("shared")
    mesh.datasets.delete("shared", every=True)
    collect(mesh, grace_s=0)
    blobs = set(mesh.store.list(mesh.tenant))
    assert gone.manifest.sha256 not in blobs
    assert shared.manifest.sha256 == also.manifest.sha256 in blobs
    assert len(list(mesh.datasets.read(also.name))) == 60
    assert mesh.datasets.upload("gone", FIELDS, samples(40, size=3)).name == "datasets/gone/versions/2"


def test_values_of_numpy_are_those_of_python(mesh: Mesh) -> None:
    fields = (*FIELDS, Field("data", "bytes"), Field("count", "integer"), Field("counts", "integer", repeated=True))
    values = {"text": "a", "score": [1.0, 2.0], "data": b"b", "count": 3, "counts": [1, 0]}
    given = {
        "text": np.str_("a"),
        "score": np.array([1, 2], np.float32),
        "data": bytearray(b"b"),
        "count": np.uint8(3),
        "counts": [np.int64(1), np.bool_(False)],
    }
    version = mesh.datasets.upload("plain-numbers", fields, [Sample("k", "train", values)])
    again = mesh.datasets.upload("plain-numbers", fields, [Sample(np.str_("k"), np.str_("train"), given)])
    assert again == version


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"text": None}, "text"),
        ({"text": "\ud800"}, "text"),
        ({"text": np.zeros((2, 2))}, "text"),
        ({"score": 1.0}, "score"),
        ({"score": None}, "score"),
        ({"score": "12"}, "score"),
        ({"score": {1: 2}}, "score"),
        ({"score": [[1.0]]}, "score"),
        ({"other": 1 << 70}, "other"),
        ({"key": 7}, "key"),
        ({"split": None}, "split"),
    ],
    ids=ascii,
)
def test_a_value_that_cannot_be_sent_is_the_callers_error(mesh: Mesh, changes: dict[str, Any], field: str) -> None:
    values = {"key": "k", "split": "train", "text": "a", "score": [], **changes}
    sample = Sample(values.pop("key"), values.pop("split"), values)
    with pytest.raises(InvalidArgument) as caught:
        mesh.datasets.upload("bad", FIELDS, [sample])
    assert (caught.value.reason, caught.value.field) == ("WRONG_TYPE", field)


def test_a_refused_sample_names_itself_and_no_version_appears(mesh: Mesh) -> None:
    with pytest.raises(InvalidArgument) as caught:
        mesh.datasets.upload("refused", FIELDS, [*samples(3), Sample("x", "train", {"text": 1, "score": []})])
    assert caught.value.field == "samples[x].text"
    assert "datasets/refused" not in [dataset.name for dataset in mesh.datasets.list()]


@pytest.mark.faults
def test_an_upload_goes_on_after_the_service_was_killed(mesh: Mesh, embedded: EmbeddedMesh) -> None:
    expected = mesh.datasets.upload("undisturbed", FIELDS, samples(3000, size=500)).manifest.sha256

    class KillsOnTheWay(list[Sample]):
        """Kills ingest after two thirds of the samples, the first time it is gone through."""

        killed = False

        def __iter__(self) -> Iterator[Sample]:
            for number, sample in enumerate(super().__iter__()):
                if number == 2000 and not self.killed:
                    self.killed = True
                    os.kill(embedded.file.services["ingest"].pid, signal.SIGKILL)
                    embedded.restart("ingest")
                yield sample

    version = mesh.datasets.upload("killed", FIELDS, KillsOnTheWay(samples(3000, size=500)))
    assert version.manifest.sha256 == expected


def test_reading_goes_on_from_any_batch(mesh: Mesh) -> None:
    version = mesh.datasets.upload("batches", FIELDS, samples(150)).name
    first, *others = mesh.datasets.read_batches(version)
    keys = [sample.key for batch in (first, *others) for sample in batch.samples]
    assert keys == [f"k{i}" for i in range(150)]
    assert list(mesh.datasets.read_batches(version, cursor=first.cursor)) == others
    with pytest.raises(InvalidArgument) as caught:
        next(mesh.datasets.read_batches(version, cursor="x"))
    assert (caught.value.reason, caught.value.field) == ("BAD_CURSOR", "cursor")


@pytest.mark.faults
def test_a_reader_goes_on_after_the_service_was_killed(mesh: Mesh, embedded: EmbeddedMesh) -> None:
    version = mesh.datasets.upload("read", FIELDS, samples(3000, size=1500)).name
    keys = []
    for number, sample in enumerate(mesh.datasets.read(version)):
        keys.append(sample.key)
        if number == 100:
            os.kill(embedded.file.services["ingest"].pid, signal.SIGKILL)
            embedded.restart("ingest")
    assert keys == [f"k{i}" for i in range(3000)]


@pytest.mark.faults
def test_a_reader_gives_up_on_a_service_that_stays_away(mesh: Mesh, embedded: EmbeddedMesh) -> None:
    version = mesh.datasets.upload("read", FIELDS, samples(3000, size=1500)).name
    batches = mesh.datasets.read_batches(version, patience_s=1)
    cursors = [next(batches).cursor]
    os.kill(embedded.file.services["ingest"].pid, signal.SIGKILL)
    try:
        with pytest.raises(Unavailable):
            cursors.extend(batch.cursor for batch in batches)
    finally:
        embedded.restart("ingest")
    others = mesh.datasets.read_batches(version, cursor=cursors[-1])
    rest = [sample.key for batch in others for sample in batch.samples]
    assert rest
    assert rest == [f"k{i}" for i in range(3000 - len(rest), 3000)]


@pytest.mark.faults
def test_an_upload_has_no_hole_however_often_its_connection_is_cut(mesh: Mesh, embedded: EmbeddedMesh) -> None:
    small = samples(6000)
    expected = mesh.datasets.upload("whole", FIELDS, small).manifest.sha256
    services = embedded.file.services
    with Proxy(services["ingest"].address) as proxy:
        through = replace(embedded.file, services={**services, "ingest": ServiceAddress(proxy.address)})
        draw = random.Random(0)
        for trial in range(10):
            cuts = set(draw.sample(range(len(small)), 3))

            class Cuts(list[Sample]):
                def __iter__(self, cuts: set[int] = cuts) -> Iterator[Sample]:
                    for number, sample in enumerate(super().__iter__()):
                        if number in cuts:
                            cuts.remove(number)
                            proxy.cut()
                        yield sample

            with Mesh(through) as cut:
                assert cut.datasets.upload(f"cut-{trial}", FIELDS, Cuts(small)).manifest.sha256 == expected
            assert not cuts


def test_a_version_is_a_data_set_of_torch_that_is_read_from_a_local_cache(mesh: Mesh, tmp_path: Path) -> None:
    mesh.datasets.upload("local", FIELDS, samples(300))
    dataset = mesh.dataset("local:1", cache=tmp_path / "cache")
    assert (len(dataset), dataset.key(299)) == (300, "k299")
    assert dataset[7] == {"text": "7 " * 10, "score": [7.0, 3.5]}
    loader = Loader(dataset, 64, collate=list, seed=5)
    seen = sorted(float(one["score"][0]) for batch in loader for one in batch)
    assert seen == [float(number) for number in range(300)]
    cached = ShardCache(tmp_path / "cache", lambda *_: pytest.fail("everything is in the cache"))
    without_mesh = StoredDataset(dataset.manifest, "train", cached)
    assert without_mesh[150] == dataset[150]


def test_a_wrong_name_of_a_version_is_told_before_anything_is_read(mesh: Mesh) -> None:
    with pytest.raises(InvalidArgument) as caught:
        mesh.dataset("My Data")
    assert caught.value.reason == "BAD_NAME"


def test_invalid_samples_are_kept_aside_on_request(mesh: Mesh) -> None:
    good, bad = samples(3), Sample("bad", "train", {"text": "x", "score": [float("nan")]})
    version = mesh.datasets.upload("kept", FIELDS, [good[0], bad, *good[1:]], quarantine=True)
    assert version.num_samples == 3
    (kept,) = mesh.datasets.quarantined(version.name)
    assert (kept.key, kept.reason, kept.field, kept.position) == ("bad", "WRONG_TYPE", "score", 2)
    assert kept.values["text"] == ["x"]
    (listed,) = mesh.datasets.quarantined(version.name, values=False)
    assert not listed.values
