"""What is durable is a prefix of the stream, and shards depend on the samples alone."""

import random
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest
from sqlalchemy import func, select

from common.database import Repeatable
from common.errors import (
    Aborted,
    AlreadyExists,
    Cancelled,
    FailedPrecondition,
    InvalidArgument,
    ResourceExhausted,
)
from deepseek.data.shards import read_shard
from services.ingest.samples import SHARD_BYTES, SHARD_SAMPLES, ReceivedSample
from services.ingest.tables import ChunkRow, KeyRow, ShardRow
from services.ingest.writer import MAX_SPLITS, Limits
from tests.services.ingest.state import BLOBS, NUMBER_BYTES, NUMBERS, TENANT, State, open_uploads


def numbers(count: int, *, splits: Sequence[str] = ("train",), seed: int = 0) -> list[ReceivedSample]:
    """Samples whose splits are mixed by chance, the first ones more often."""
    draw = random.Random(seed)
    weights = range(len(splits), 0, -1)
    return [ReceivedSample(f"k{i}", draw.choices(splits, weights)[0], [("number", [i])]) for i in range(count)]


def interrupted(samples: Sequence[ReceivedSample]) -> Iterator[ReceivedSample]:
    """A stream that breaks after these samples."""
    yield from samples
    raise Cancelled("STREAM_BROKEN", "the client went away")


def test_everything_is_durable_when_the_stream_ends(state: State) -> None:
    name = state.create()
    state.write(name, numbers(5, splits=("train", "test")))
    shards, staged = state.content(name)
    assert (state.num_samples(name), shards, len(staged)) == (5, [], 5)


def test_full_shards_go_to_the_store_in_the_order_sent(state: State) -> None:
    name = state.create()
    state.write(name, numbers(2 * SHARD_SAMPLES + 3))
    shards, staged = state.content(name)
    assert [(split, number) for split, number, _ in shards] == [("train", 0), ("train", 1)]
    read = [s for _, _, digest in shards for s in read_shard(state.store.read(TENANT, digest), NUMBERS, verify=True)]
    keys = [sample.key for sample in read] + [key for _, key in staged]
    assert keys == [f"k{i}" for i in range(2 * SHARD_SAMPLES + 3)]


def test_an_upload_holds_no_more_than_it_may_in_however_many_streams(state: State) -> None:
    bound = open_uploads(state.database, state.store, limits=Limits(upload_bytes=30 * NUMBER_BYTES))
    bounded, name, samples = replace(state, uploads=bound), state.create(), numbers(100)
    for offset in (0, 30):
        with pytest.raises(ResourceExhausted) as caught:
            bounded.write(name, samples[offset:], offset=offset)
        assert (caught.value.reason, caught.value.field) == ("UPLOAD_TOO_LARGE", "samples[k30]")
        assert caught.value.retry_delay_s is None
        assert "retrying does not help" in caught.value.message
        assert state.num_samples(name) == 30


def test_the_open_uploads_of_a_tenant_hold_no_more_than_they_may_together(state: State) -> None:
    bound = open_uploads(state.database, state.store, limits=Limits(open_bytes=30 * NUMBER_BYTES))
    bounded, (first, second) = replace(state, uploads=bound), (state.create(), state.create())
    bounded.write(first, numbers(20))
    with pytest.raises(ResourceExhausted) as caught:
        bounded.write(second, numbers(11))
    assert (caught.value.reason, caught.value.field) == ("QUOTA_EXCEEDED", "upload")
    assert caught.value.retry_delay_s
    assert [state.num_samples(name) for name in (first, second)] == [20, 0]
    bounded.write(second, numbers(10))
    bound.delete(TENANT, first)
    bounded.write(second, numbers(20)[10:], offset=10)
    assert state.num_samples(second) == 20


def test_a_single_split_is_never_written_twice(state: State) -> None:
    name = state.create()
    with state.uploads.write(TENANT, name, offset=0) as writer:
        for i, sample in enumerate(numbers(2 * SHARD_SAMPLES)):
            writer.add([sample])
            if i % 512 == 511:
                assert state.content(name)[1] == []
                assert state.num_samples(name) == (i + 1) // SHARD_SAMPLES * SHARD_SAMPLES


@pytest.mark.parametrize("seed", range(4))
def test_interruptions_leave_no_trace_in_the_shards(state: State, seed: int) -> None:
    samples = numbers(4 * SHARD_SAMPLES, splits=("train", "test", "validation"), seed=seed)
    whole, cut = state.create(), state.create()
    state.write(whole, samples)
    draw, done = random.Random(seed), 0
    while done < len(samples):
        count = draw.choice((1, 2, 100, 700, 1500))
        with pytest.raises(Cancelled):
            state.write(cut, interrupted(samples[done : done + count]), offset=done)
        done = state.num_samples(cut)
    assert state.content(cut) == state.content(whole)
    assert len(state.content(whole)[0]) >= 2


@pytest.mark.parametrize("seed", range(4))
def test_a_writer_that_vanishes_leaves_a_prefix(state: State, seed: int) -> None:
    samples = numbers(3 * SHARD_SAMPLES, splits=("train", "test"), seed=seed)
    whole, cut = state.create(), state.create()
    state.write(whole, samples)
    draw, done = random.Random(seed), 0
    while done < len(samples):
        # Never left: as after a kill, what is in the buffer is lost.
        writer = state.uploads.write(TENANT, cut, offset=done)
        for sample in samples[done : done + draw.randrange(1, 2500)]:
            writer.add([sample])
        if draw.random() < 0.5 or done + SHARD_SAMPLES >= len(samples):
            writer.flush()
        before, done = done, state.num_samples(cut)
        shards, staged = state.content(cut)
        keys = {key for _, key in staged}
        for _, _, digest in shards:
            keys |= {sample.key for sample in read_shard(state.store.read(TENANT, digest), NUMBERS)}
        assert keys == {sample.key for sample in samples[:done]}
        assert done >= before
    assert state.content(cut) == state.content(whole)


def test_a_shard_is_cut_by_bytes_too(state: State) -> None:
    size = SHARD_BYTES // 4
    samples = [ReceivedSample(f"k{i}", "train", [("data", [bytes([i]) * size])]) for i in range(9)]
    whole, cut = state.create(BLOBS), state.create(BLOBS)
    state.write(whole, samples)
    for i, sample in enumerate(samples):
        state.write(cut, [sample], offset=i)
    assert state.content(cut) == state.content(whole)
    shards, staged = state.content(whole)
    assert (len(shards), len(staged)) == (2, 1)


def test_memory_is_bounded_by_the_buffers_whatever_the_number_of_splits(state: State) -> None:
    name = state.create(BLOBS)
    tracemalloc.start()
    with state.uploads.write(TENANT, name, offset=0) as writer:
        for i in range(40):
            data = random.Random(i).randbytes(4 << 20)
            writer.add([ReceivedSample(f"k{i}", f"split-{i % 8}", [("data", [data])])])
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * SHARD_BYTES, f"{peak >> 20} MiB for an upload of 160 MiB"


def test_a_duplicate_key_ends_the_stream_and_keeps_what_came_before(state: State) -> None:
    name = state.create()
    with pytest.raises(AlreadyExists, match="k1") as caught:
        state.write(name, [*numbers(3), numbers(2)[1], ReceivedSample("later", "train", [("number", [1])])])
    assert (caught.value.reason, caught.value.field) == ("DUPLICATE_KEY", "samples[k1].key")
    assert state.num_samples(name) == 3


@pytest.mark.parametrize("position", [0, 5, SHARD_SAMPLES - 1, SHARD_SAMPLES + 5])
def test_a_key_of_an_earlier_stream_is_a_duplicate_in_another_split_too(state: State, position: int) -> None:
    name = state.create()
    samples = numbers(2 * SHARD_SAMPLES)
    state.write(name, samples[:100])
    later = samples[100:]
    later[position] = ReceivedSample("k7", "test", [("number", [7])])
    with pytest.raises(AlreadyExists) as caught:
        state.write(name, later, offset=100)
    assert caught.value.field == "samples[k7].key"
    assert state.num_samples(name) == 100 + position
    whole = state.create()
    state.write(whole, samples[: 100 + position])
    assert state.content(name) == state.content(whole)


def test_the_first_of_two_bad_samples_is_the_one_reported(state: State) -> None:
    name = state.create()
    state.write(name, numbers(2))
    bad = ReceivedSample("bad", "train", [("number", ["text"])])
    with pytest.raises(AlreadyExists):
        state.write(name, [numbers(1)[0], bad], offset=2)
    assert state.num_samples(name) == 2


def test_more_splits_than_a_manifest_takes_are_refused(state: State) -> None:
    name = state.create()
    samples = [ReceivedSample(f"k{i}", f"split-{i}", [("number", [i])]) for i in range(MAX_SPLITS + 1)]
    with pytest.raises(InvalidArgument) as caught:
        state.write(name, samples)
    assert (caught.value.reason, caught.value.field) == ("TOO_MANY_SPLITS", f"samples[k{MAX_SPLITS}].split")
    assert state.num_samples(name) == MAX_SPLITS


def test_an_offset_that_is_not_the_durable_count_is_refused_and_disturbs_nobody(state: State) -> None:
    name = state.create()
    with state.uploads.write(TENANT, name, offset=0) as writer:
        with pytest.raises(InvalidArgument) as caught:
            state.uploads.write(TENANT, name, offset=1)
        writer.add([numbers(1)[0]])
    assert (caught.value.reason, caught.value.field) == ("OFFSET_MISMATCH", "offset")
    assert state.num_samples(name) == 1


def test_a_newer_writer_takes_over_and_the_older_can_do_no_more(state: State) -> None:
    name = state.create()
    older = state.uploads.write(TENANT, name, offset=0)
    older.add([numbers(1)[0]])
    with state.uploads.write(TENANT, name, offset=0) as newer:
        newer.add([numbers(2)[1]])
        with pytest.raises(Aborted) as caught:
            older.flush()
    assert (caught.value.reason, caught.value.field) == ("UPLOAD_TAKEN_OVER", "upload")
    assert state.content(name) == ([], [("train", "k1")])


@pytest.mark.parametrize(
    "close",
    [
        lambda state, name: state.uploads.delete(TENANT, name),
        lambda state, name: state.uploads.commit(TENANT, name, Repeatable("CommitUpload")),
    ],
)
def test_a_writer_of_an_upload_that_was_closed_meanwhile_fails(
    state: State, close: Callable[[State, str], object]
) -> None:
    name = state.create()
    state.write(name, numbers(1))
    writer = state.uploads.write(TENANT, name, offset=1)
    writer.add([numbers(2)[1]])
    close(state, name)
    with pytest.raises(FailedPrecondition) as caught:
        writer.flush()
    assert caught.value.reason == "UPLOAD_CLOSED"


def test_equal_uploads_share_their_blobs(state: State) -> None:
    samples = numbers(2 * SHARD_SAMPLES + 7, splits=("train", "test"))
    state.write(state.create(), samples)
    before = set(state.store.list(TENANT))
    state.write(state.create(), samples)
    assert set(state.store.list(TENANT)) == before


def test_a_dropped_upload_leaves_no_rows_of_samples(state: State) -> None:
    name = state.create()
    state.write(name, numbers(SHARD_SAMPLES + 1))
    state.uploads.delete(TENANT, name)
    with state.database.snapshot() as session:
        counts = [session.scalar(select(func.count()).select_from(table)) for table in (KeyRow, ShardRow, ChunkRow)]
    assert counts == [0, 0, 0]
