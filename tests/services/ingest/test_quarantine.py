"""The quarantine: invalid samples never end a stream or move the point where it resumes, and none is lost."""

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import select

from common.errors import DataLoss, FailedPrecondition, InvalidArgument, NotFound
from deepseek.data.quarantine import QUARANTINE_FIELDS, from_row, read_rows
from deepseek.data.rejected import Rejected
from deepseek.data.shards import encode_shard, read_shard
from protos.ingest.v1 import ingest_pb2
from services.ingest import writer
from services.ingest.samples import SHARD_SAMPLES, ReceivedSample
from services.ingest.tables import ChunkRow
from tests.services.ingest.bad_samples import BAD_SAMPLES
from tests.services.ingest.client import SCHEMA, IngestClient, field, picture
from tests.services.ingest.state import TENANT, State

KEPT = {name: case for name, case in BAD_SAMPLES.items() if case[1] != "DIGEST_MISMATCH"}
"""The samples that are invalid in themselves; another digest means that the sample was damaged on its way."""


def create(client: IngestClient, dataset: str) -> str:
    request = ingest_pb2.CreateUploadRequest(dataset=f"datasets/{dataset}", schema=SCHEMA, quarantine=True)
    return str(client.ingest.CreateUpload(request).upload.name)


def quarantine(client: IngestClient, parent: str, after: int = 0) -> list[ingest_pb2.Sample]:
    request = ingest_pb2.ReadQuarantineRequest(parent=parent, after_position=after)
    return [sample for response in client.ingest.ReadQuarantine(request) for sample in response.samples]


def values_of(sample: ingest_pb2.Sample) -> list[tuple[str, list[str]]]:
    """The values as text, field by field: NaN is not equal to itself."""
    merged: dict[str, list[str]] = {}
    for one in sample.fields:
        if one.values:
            merged.setdefault(one.field, []).extend(map(str, one.values))
    return list(merged.items())


def test_every_kind_of_invalid_sample_is_kept_with_its_reason(client: IngestClient) -> None:
    upload = create(client, "kinds")
    cases = list(KEPT.values())
    sent: list[ingest_pb2.Sample] = []
    for i, (bad, _, _) in enumerate(cases):
        sent += [picture(100 + i), bad]
    state = client.send(upload, sent, sizes=(3,))
    assert (state.num_samples, state.num_quarantined) == (len(cases), len(cases))
    version = client.commit(upload)
    assert version.num_samples == len(cases)
    for parent in (upload, version.name):
        found = quarantine(client, parent)
        if parent == upload:
            assert found == []  # the samples of a committed upload belong to its version
            continue
        assert [one.rejection.reason for one in found] == [reason for _, reason, _ in cases]
        assert [one.rejection.field for one in found] == [where for _, _, where in cases]
        assert [one.rejection.position for one in found] == list(range(2, 2 * len(cases) + 1, 2))
        for one, (bad, _, _) in zip(found, cases, strict=True):
            assert (one.key, one.split, values_of(one)) == (bad.key, bad.split, values_of(bad))
            assert one.rejection.message
    kept = [sample.key for message in client.read(version.name) for sample in message.samples]
    assert kept == [f"picture-{100 + i}" for i in range(len(cases))]


def test_a_stream_resumes_after_quarantined_samples(client: IngestClient) -> None:
    upload = create(client, "resumed")
    bad = KEPT["cut image"][0]
    state = client.send(upload, [picture(0), bad, picture(1)])
    assert (state.num_samples, state.num_quarantined) == (2, 1)
    with pytest.raises(InvalidArgument, match="offset 3") as caught:
        client.send(upload, [picture(2)], offset=2)
    assert caught.value.reason == "OFFSET_MISMATCH"
    state = client.send(upload, [picture(2), picture(0, key="picture-1")], offset=3)
    assert (state.num_samples, state.num_quarantined) == (3, 2)
    found = quarantine(client, upload)
    assert [(one.rejection.reason, one.rejection.position) for one in found] == [
        ("DAMAGED_IMAGE", 2),
        ("DUPLICATE_KEY", 5),
    ]
    assert quarantine(client, upload, after=2) == found[1:]


def test_a_key_can_be_used_again_after_its_sample_was_quarantined(client: IngestClient) -> None:
    upload = create(client, "repaired")
    bad = KEPT["cut image"][0]
    state = client.send(upload, [bad, picture(3)])
    assert bad.key == picture(3).key
    assert (state.num_samples, state.num_quarantined) == (1, 1)


def test_a_client_can_send_what_it_could_not_read_itself(client: IngestClient) -> None:
    upload = create(client, "rejected")
    rejection = ingest_pb2.Rejection(reason="RAGGED_ROW", message="rows.csv:7 has 3 columns, not 5", field="")
    row = ingest_pb2.Sample(key="rows.csv:7", fields=[field("line", "a,b,c")], rejection=rejection)
    client.send(upload, [picture(0), row])
    (found,) = quarantine(client, upload)
    assert found.key == "rows.csv:7"
    assert (found.rejection.reason, found.rejection.message) == ("RAGGED_ROW", rejection.message)
    assert found.fields[0] == field("line", "a,b,c")
    wrong = ingest_pb2.Sample(key="x", rejection=ingest_pb2.Rejection(reason="no code"))
    with pytest.raises(InvalidArgument) as caught:
        client.send(upload, [wrong], offset=2)
    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", "samples[x].rejection.reason")


def test_an_upload_without_a_quarantine_refuses_rejected_samples(client: IngestClient) -> None:
    upload = client.create("strict")
    row = ingest_pb2.Sample(key="a", rejection=ingest_pb2.Rejection(reason="RAGGED_ROW"))
    with pytest.raises(InvalidArgument) as caught:
        client.send(upload, [picture(0), row])
    assert (caught.value.reason, caught.value.field) == ("NO_QUARANTINE", "samples[a].rejection")
    assert client.state(upload).num_samples == 1


def test_a_sample_damaged_on_its_way_still_ends_the_stream(client: IngestClient) -> None:
    upload = create(client, "digest")
    with pytest.raises(InvalidArgument) as caught:
        client.send(upload, [picture(0), BAD_SAMPLES["wrong digest"][0]])
    assert caught.value.reason == "DIGEST_MISMATCH"
    assert client.state(upload).num_quarantined == 0


def test_an_upload_of_invalid_samples_only_is_not_committed(client: IngestClient) -> None:
    upload = create(client, "nothing")
    client.send(upload, [KEPT["cut image"][0]])
    with pytest.raises(FailedPrecondition, match="all of its samples are quarantined") as caught:
        client.start_commit(upload)
    assert caught.value.reason == "EMPTY_UPLOAD"


def test_an_unknown_upload_or_version_is_not_found(client: IngestClient) -> None:
    for parent, reason in (("uploads/x", "UPLOAD_NOT_FOUND"), ("datasets/none/versions/1", "VERSION_NOT_FOUND")):
        with pytest.raises(NotFound) as caught:
            quarantine(client, parent)
        assert caught.value.reason in (reason, "DATASET_NOT_FOUND")
    with pytest.raises(InvalidArgument):
        quarantine(client, "uploads/../x")


def mixed(count: int, *, seed: int) -> list[ReceivedSample]:
    """Samples of which a tenth is invalid and a tenth repeats a key."""
    draw = random.Random(seed)
    samples = []
    for i in range(count):
        kind = draw.random()
        key = f"k{draw.randrange(i)}" if kind < 0.1 and i else f"k{i}"
        samples.append(ReceivedSample(key, "train", [("number", ["x" if kind > 0.9 else i])]))
    return samples


def in_parts(state: State, samples: Sequence[ReceivedSample], cuts: Sequence[int]) -> str:
    name = state.create(quarantine=True)
    for start, end in zip([0, *cuts], [*cuts, len(samples)], strict=True):
        state.write(name, samples[start:end], offset=start)
    return name


def test_interruptions_do_not_change_what_is_stored(state: State) -> None:
    samples = mixed(3 * SHARD_SAMPLES, seed=1)
    whole = in_parts(state, samples, [])
    first_keys = {}
    for sample in samples:
        if sample.fields[0][1] != ["x"]:
            first_keys.setdefault(sample.key, sample)
    upload = state.uploads.get(TENANT, whole)
    assert upload.num_samples == len(first_keys)
    assert upload.num_samples + upload.num_quarantined == len(samples)
    shards, staged = state.content(whole)
    for seed in range(3):
        cuts = sorted(random.Random(seed).sample(range(1, len(samples)), 5))
        assert state.content(in_parts(state, samples, cuts)) == (shards, staged)


def test_a_full_quarantine_ends_the_stream_and_keeps_everything_before(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer, "MAX_QUARANTINED", 3)
    bad = [ReceivedSample(f"k{i}", "train", [("number", ["x"])]) for i in range(5)]
    name = state.create(quarantine=True)
    with pytest.raises(FailedPrecondition, match="k3") as caught:
        state.write(name, [replace(bad[0], fields=[("number", [1])]), *bad])
    assert caught.value.reason == "QUARANTINE_FULL"
    upload = state.uploads.get(TENANT, name)
    assert (upload.num_samples, upload.num_quarantined) == (1, 3)


def test_a_quarantine_fills_shards_like_a_split(state: State, tmp_path: Path) -> None:
    bad = [ReceivedSample(f"k{i}", "train", [("number", ["x"])]) for i in range(SHARD_SAMPLES + 2)]
    name = state.create(quarantine=True)
    state.write(name, bad)
    ((split, number, digest),), staged = state.content(name)
    rows = list(read_shard(state.store.read(TENANT, digest), QUARANTINE_FIELDS, verify=True))
    assert (split, number, len(rows), len(staged)) == ("/quarantine", 0, SHARD_SAMPLES, 2)
    assert from_row(rows[-1]) == Rejected(
        f"k{SHARD_SAMPLES - 1}",
        "",
        "WRONG_TYPE",
        f"samples[k{SHARD_SAMPLES - 1}].number must be an integer, not str",
        "number",
        "train",
        {"number": ["x"]},
        SHARD_SAMPLES,
    )


def test_rows_that_were_stored_before_places_were_recorded_are_read_without_a_place(state: State) -> None:
    bad = [ReceivedSample(f"k{i}", "train", [("number", ["x"])], place=f"rows.csv:{i}") for i in range(SHARD_SAMPLES)]
    early = [field for field in QUARANTINE_FIELDS if field.name != "place"]
    name = state.create(quarantine=True)
    state.write(name, bad[:2])
    with state.database.transaction() as session:
        chunk = session.scalars(select(ChunkRow)).one()
        chunk.data = encode_shard(list(read_rows(chunk.data)), early)
        shard = chunk.data
    with pytest.raises(DataLoss, match="columns differ"):
        next(read_shard(shard, QUARANTINE_FIELDS))
    rows = [from_row(row) for row in read_rows(shard)]
    assert [(one.key, one.place, one.values) for one in rows] == [(f"k{i}", "", {"number": ["x"]}) for i in (0, 1)]
    state.write(name, bad[2:], offset=2)
    ((_, _, digest),), staged = state.content(name)
    assert not staged
    stored = [from_row(row) for row in read_rows(state.store.read(TENANT, digest))]
    assert [one.place for one in stored] == ["", "", *(one.place for one in bad[2:])]
