"""Specs that are derived from a data set on a mesh."""

from collections.abc import Iterator

import pytest

from common.errors import InvalidArgument
from deepseek import tasks
from deepseek.client import Mesh
from deepseek.client.datasets import Datasets
from deepseek.client.specs import derive_spec
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample
from protos.ingest.v1 import ingest_pb2

pytestmark = pytest.mark.slow
FIELDS = (Field("line", "text"), Field("kind", "label", labels=("long", "short")))
NUM_SAMPLES, NUM_WORDS = 256, 1000


def samples(split: str) -> Iterator[Sample]:
    """Short texts, followed by as many long ones."""
    for i in range(NUM_SAMPLES):
        is_long = 2 * i >= NUM_SAMPLES
        text = "word " * (NUM_WORDS if is_long else 4)
        yield Sample(f"{split}-{i}", split, {"line": text, "kind": "long" if is_long else "short"})


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[ingest_pb2.Sample]:
    """Records the samples that are read."""
    seen: list[ingest_pb2.Sample] = []
    original = Datasets.read

    def recorded(self: Datasets, version: str, split: str = "train") -> Iterator[ingest_pb2.Sample]:
        for sample in original(self, version, split):
            seen.append(sample)
            yield sample

    monkeypatch.setattr(Datasets, "read", recorded)
    return seen


def test_the_samples_that_are_sniffed_are_spread_but_limited_in_size(
    mesh: Mesh, read: list[ingest_pb2.Sample], monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = mesh.datasets.upload("lengths", FIELDS, samples("all")).name
    spec = derive_spec(mesh, "text-classification", dataset)
    assert (spec["train_split"], spec["inputs"][0]["encoder"]["params"]["length"]) == ("all", 512)
    assert len(read) == NUM_SAMPLES - NUM_SAMPLES // tasks.NUM_SNIFFED + 1
    for limit in (1, 3000, 100_000):
        read.clear()
        monkeypatch.setattr(tasks, "MAX_SNIFFED_BYTES", limit)
        derive_spec(mesh, "text-classification", dataset)
        assert sum(sample.ByteSize() for sample in read[:-1]) < limit


def test_no_model_is_trained_on_the_test_split_unless_it_is_chosen(mesh: Mesh) -> None:
    dataset = mesh.datasets.upload("tests", FIELDS, samples("test")).name
    with pytest.raises(InvalidArgument, match="its splits are: test; choose the one to train on with --train-split"):
        derive_spec(mesh, "text-classification", dataset)
    assert derive_spec(mesh, "text-classification", dataset, train_split="test")["train_split"] == "test"
