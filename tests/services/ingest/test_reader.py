"""Reading streams: any cursor goes on exactly, and no forged one is believed."""

import base64
import json
from itertools import islice

import pytest

from common.errors import InvalidArgument, NotFound
from protos.ingest.v1 import ingest_pb2
from protos.registry.v1 import registry_pb2
from services.ingest.samples import SHARD_SAMPLES
from tests.services.ingest.client import BLOBS, NUMBERS, IngestClient, blob, number

NUM_SAMPLES = SHARD_SAMPLES + 300


@pytest.fixture(scope="module")
def version(client: IngestClient) -> str:
    """A version whose train split has two shards."""
    upload = client.create("reading", NUMBERS)
    client.send(upload, [*(number(i) for i in range(NUM_SAMPLES)), number(NUM_SAMPLES, "test")])
    return client.commit(upload).name


def keys(messages: list[ingest_pb2.ReadSamplesResponse]) -> list[str]:
    return [sample.key for message in messages for sample in message.samples]


EXPECTED = [f"number-{i}" for i in range(NUM_SAMPLES)]


def test_batches_have_the_size_asked_for(client: IngestClient, version: str) -> None:
    sizes = [len(message.samples) for message in client.read(version, batch_size=500)]
    assert sizes == [500, 500, NUM_SAMPLES - 1000]
    assert {len(message.samples) for message in client.read(version)} == {64, NUM_SAMPLES % 64}


@pytest.mark.parametrize("batch_size", [1, 100, 512, 1024])
def test_reading_goes_on_exactly_after_every_cursor(client: IngestClient, version: str, batch_size: int) -> None:
    read: list[str] = []
    cursor = ""
    while True:
        # Each stream is given up after two messages, so that some end within a shard and some at its end.
        messages = list(islice(client.read(version, cursor=cursor, batch_size=batch_size), 2))
        if not messages:
            break
        read += keys(messages)
        cursor = messages[-1].cursor
        if batch_size == 1 and len(read) >= 20:
            break
    assert read == EXPECTED[: len(read)]
    assert batch_size == 1 or len(read) == NUM_SAMPLES


def test_a_large_sample_makes_a_batch_of_its_own(client: IngestClient) -> None:
    upload = client.create("large-samples", BLOBS)
    client.send(upload, [blob(i, 3 << 20 if i % 2 else 10) for i in range(6)], sizes=(1,))
    messages = list(client.read(client.commit(upload).name))
    assert keys(messages) == [f"blob-{i}" for i in range(6)]
    assert max(len(message.samples) for message in messages) <= 2


def test_an_alias_and_the_latest_version_can_be_read_with_the_same_cursor(client: IngestClient, version: str) -> None:
    alias = "datasets/reading/aliases/stable"
    client.registry.SetAlias(registry_pb2.SetAliasRequest(name=alias, version=version))
    cursor = next(client.read(alias, batch_size=10)).cursor
    for name in (alias, version, "datasets/reading/versions/latest"):
        assert next(client.read(name, cursor=cursor)).samples[0].key == "number-10"


def token(*parts: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(parts).encode()).decode()


NAME = "datasets/reading/versions/1"


@pytest.mark.parametrize(
    "cursor",
    [
        "x",
        "%%%%",
        "ünïcode",
        "A" * 2000,
        base64.urlsafe_b64encode(b"\xff\xfe").decode(),
        base64.urlsafe_b64encode(b"[" * 700).decode(),
        base64.urlsafe_b64encode(b"[1" + b"0" * 600 + b"]").decode(),
        token(),
        token(NAME, "train"),
        token(NAME, "train", 1, 2),
        token(NAME, "train", -1),
        token(NAME, "train", NUM_SAMPLES + 1),
        token(NAME, "train", 2**70),
        token(NAME, "train", "5"),
        token(NAME, "train", 1.0),
        token(NAME, "train", True),
        token(NAME, "train", None),
        token(NAME, "test", 0),
        token("datasets/reading/versions/2", "train", 0),
        token(1, 2, 3),
        base64.urlsafe_b64encode(json.dumps({"split": "train"}).encode()).decode(),
    ],
)
def test_a_cursor_that_is_not_of_this_version_and_split_is_refused(
    client: IngestClient, version: str, cursor: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        list(client.read(version, cursor=cursor))
    assert (caught.value.reason, caught.value.violations[0].field.partition("[")[0]) == ("BAD_CURSOR", "cursor")


def test_the_cursor_after_the_last_sample_ends_at_once(client: IngestClient, version: str) -> None:
    assert list(client.read(version, cursor=token(NAME, "train", NUM_SAMPLES))) == []


def test_the_cursor_of_another_split_is_refused(client: IngestClient, version: str) -> None:
    cursor = next(client.read(version, "test")).cursor
    with pytest.raises(InvalidArgument, match="train"):
        list(client.read(version, "train", cursor=cursor))


def test_an_unknown_split_is_told_with_those_there_are(client: IngestClient, version: str) -> None:
    with pytest.raises(NotFound, match="test, train") as caught:
        list(client.read(version, "validation"))
    assert (caught.value.reason, caught.value.field) == ("SPLIT_NOT_FOUND", "split")


@pytest.mark.parametrize("batch_size", [-1, 1025])
def test_a_batch_size_out_of_range_is_refused(client: IngestClient, version: str, batch_size: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        list(client.read(version, batch_size=batch_size))
    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", "batch_size")


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("datasets/nobody/versions/1", NotFound, "DATASET_NOT_FOUND"),
        ("datasets/reading/versions/99", NotFound, "DATASET_VERSION_NOT_FOUND"),
        ("datasets/reading/aliases/none", NotFound, "ALIAS_NOT_FOUND"),
        ("reading", InvalidArgument, "BAD_NAME"),
    ],
)
def test_an_unknown_version_is_the_registrys_error(
    client: IngestClient, version: str, name: str, error: type[Exception], reason: str
) -> None:
    with pytest.raises(error) as caught:
        list(client.read(name))
    assert getattr(caught.value, "reason") == reason  # noqa: B009
