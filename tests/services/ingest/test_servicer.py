"""Ingest over a real server: what comes in comes out, and what is wrong is said by code, reason and field."""

from collections.abc import Callable

import pytest

from common.errors import AlreadyExists, FailedPrecondition, InvalidArgument, MeshError, NotFound
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample
from deepseek.data.shards import sample_sha256
from protos.ingest.v1 import ingest_pb2
from tests.harness.processes import wait_until
from tests.services.ingest.bad_samples import BAD_SAMPLES
from tests.services.ingest.client import NUMBERS, SCHEMA, IngestClient, field, messages, number, picture
from tests.services.ingest.conftest import IngestMesh


def test_what_was_sent_comes_back_in_order_with_digests(client: IngestClient) -> None:
    sent = [picture(i, split="test" if i % 5 == 0 else "train") for i in range(200)]
    upload = client.create("round-trip")
    assert client.send(upload, sent, sizes=(7, 1, 0, 30)).num_samples == 200
    version = client.commit(upload)
    assert (version.name, version.num_samples) == ("datasets/round-trip/versions/1", 200)
    fields = [Field(f.name, ingest_pb2.FieldType.Name(f.type)[11:].lower(), f.repeated) for f in SCHEMA.fields]
    for split in ("train", "test"):
        read = [sample for message in client.read(version.name, split) for sample in message.samples]
        for sample in read:
            values = {
                f.field: [getattr(v, str(v.WhichOneof("kind"))) for v in f.values]
                if f.field in ("question", "answer")
                else getattr(f.values[0], str(f.values[0].WhichOneof("kind")))
                for f in sample.fields
            }
            assert sample.sha256 == sample_sha256(Sample(sample.key, sample.split, values), fields)
            sample.sha256 = ""
        assert read == [sample for sample in sent if sample.split == split]


def test_a_sample_read_back_can_be_uploaded_with_its_digest(client: IngestClient) -> None:
    first = client.create("again")
    client.send(first, [picture(i) for i in range(3)])
    version = client.commit(first)
    second = client.create("again")
    client.send(second, [sample for message in client.read(version.name) for sample in message.samples])
    assert client.commit(second).name == version.name


def test_no_split_means_train(client: IngestClient) -> None:
    upload = client.create("no-split")
    client.send(upload, [picture(0, split="")])
    version = client.commit(upload)
    assert [s.split for message in client.read(version.name, "") for s in message.samples] == ["train"]


@pytest.mark.parametrize("case", BAD_SAMPLES)
def test_a_bad_sample_ends_the_stream_and_those_before_it_are_kept(client: IngestClient, case: str) -> None:
    bad, reason, where = BAD_SAMPLES[case]
    upload = client.create("bad-sample")
    samples = [picture(0), picture(1), picture(2), bad, picture(4)]
    with pytest.raises(InvalidArgument) as caught:
        client.send(upload, samples, sizes=(2,))
    assert (caught.value.reason, caught.value.field) == (reason, f"samples[{bad.key[:80]}].{where}")
    assert client.state(upload).num_samples == 3
    assert client.send(upload, [picture(3), picture(4)], offset=3).num_samples == 5
    whole = client.create("bad-sample")
    client.send(whole, [picture(i) for i in range(5)])
    assert client.commit(upload).name == client.commit(whole).name


def test_a_duplicate_key_within_a_stream_is_refused(client: IngestClient) -> None:
    upload = client.create("duplicate")
    with pytest.raises(AlreadyExists) as caught:
        client.send(upload, [picture(0), picture(1), picture(2, key="picture-0")])
    assert (caught.value.reason, caught.value.field) == ("DUPLICATE_KEY", "samples[picture-0].key")
    assert client.state(upload).num_samples == 2


def test_a_duplicate_key_across_streams_is_refused_and_the_upload_goes_on(client: IngestClient) -> None:
    upload = client.create("duplicate")
    client.send(upload, [picture(0), picture(1)])
    with pytest.raises(AlreadyExists) as caught:
        client.send(upload, [picture(2), picture(3, split="test", key="picture-1"), picture(4)], offset=2)
    assert (caught.value.reason, caught.value.field) == ("DUPLICATE_KEY", "samples[picture-1].key")
    assert client.send(upload, [picture(3)], offset=3).num_samples == 4


def test_an_empty_upload_cannot_be_committed(client: IngestClient) -> None:
    upload = client.create("empty")
    client.send(upload, [])
    with pytest.raises(FailedPrecondition) as caught:
        client.start_commit(upload)
    assert (caught.value.reason, caught.value.field) == ("EMPTY_UPLOAD", "name")
    client.send(upload, [picture(0)])
    assert client.commit(upload).num_samples == 1


@pytest.mark.parametrize("offset", [-1, 1, 3, 2**62])
def test_an_offset_that_is_not_the_durable_count_is_refused(client: IngestClient, offset: int) -> None:
    upload = client.create("offset")
    client.send(upload, [picture(0), picture(1)])
    with pytest.raises(InvalidArgument) as caught:
        client.send(upload, [picture(2)], offset=offset)
    assert (caught.value.reason, caught.value.field) == ("OFFSET_MISMATCH", "offset")


def test_the_upload_is_named_in_the_first_message_alone(client: IngestClient) -> None:
    upload = client.create("first-message")
    message = ingest_pb2.UploadSamplesRequest(upload=upload, samples=[picture(0)])
    with pytest.raises(InvalidArgument) as caught:
        client.ingest.UploadSamples(iter([message, message]))
    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", "upload")
    with pytest.raises(InvalidArgument) as caught:
        client.ingest.UploadSamples(iter([]))
    assert (caught.value.reason, caught.value.field) == ("MISSING_FIELD", "upload")


def test_a_message_that_was_lost_on_the_way_leaves_no_hole(client: IngestClient) -> None:
    upload = client.create("lost-message")
    sent = list(messages(upload, [picture(i) for i in range(6)], sizes=(2,)))
    with pytest.raises(InvalidArgument) as caught:
        client.ingest.UploadSamples(iter([sent[0], *sent[2:]]))
    assert (caught.value.reason, caught.value.field) == ("OFFSET_MISMATCH", "offset")
    assert client.state(upload).num_samples == 2
    assert client.resume(upload, [picture(i) for i in range(6)]).num_samples == 6


def test_a_client_need_not_count_in_later_messages(client: IngestClient) -> None:
    upload = client.create("no-counts")
    sent = list(messages(upload, [picture(i) for i in range(6)], sizes=(2,)))
    for message in sent:
        message.offset = 0
    assert client.ingest.UploadSamples(iter(sent)).upload.num_samples == 6


@pytest.mark.parametrize(
    "call",
    [
        lambda client, name: client.state(name),
        lambda client, name: client.send(name, [picture(0)]),
        lambda client, name: client.start_commit(name),
        lambda client, name: client.ingest.DeleteUpload(ingest_pb2.DeleteUploadRequest(name=name)),
    ],
)
def test_unknown_and_malformed_names_are_told_apart(
    client: IngestClient, call: Callable[[IngestClient, str], object]
) -> None:
    with pytest.raises(NotFound) as missing:
        call(client, "uploads/nobody")
    assert (missing.value.reason, missing.value.field) == ("UPLOAD_NOT_FOUND", "name")
    with pytest.raises(InvalidArgument) as malformed:
        call(client, "datasets/d")
    assert malformed.value.reason == "BAD_NAME"


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ([], "schema.fields"),
        ([ingest_pb2.FieldSchema(name="x")], "schema.fields[0].type"),
        ([ingest_pb2.FieldSchema(name="x", type=99)], "schema.fields[0].type"),  # type: ignore[arg-type]
        ([ingest_pb2.FieldSchema(name="X", type=ingest_pb2.FIELD_TYPE_TEXT)], "schema.fields[0].name"),
        ([ingest_pb2.FieldSchema(name="x", type=ingest_pb2.FIELD_TYPE_TEXT)] * 2, "schema.fields[1].name"),
        ([ingest_pb2.FieldSchema(name="x", type=ingest_pb2.FIELD_TYPE_LABEL)], "schema.fields[0].labels"),
    ],
)
def test_a_bad_schema_is_refused_when_the_upload_is_opened(
    client: IngestClient, fields: list[ingest_pb2.FieldSchema], where: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        client.create("schema", ingest_pb2.Schema(fields=fields))
    assert (caught.value.reason, caught.value.field) == ("BAD_SCHEMA", where)


def test_the_same_request_id_opens_one_upload_and_never_another(client: IngestClient) -> None:
    first = client.create("request-id", NUMBERS, request_id="create-1")
    client.send(first, [number(0)])
    assert client.create("request-id", NUMBERS, request_id="create-1") == first
    with pytest.raises(AlreadyExists) as caught:
        client.create("request-id", SCHEMA, request_id="create-1")
    assert (caught.value.reason, caught.value.field) == ("REQUEST_ID_REUSED", "request_id")
    assert client.state(first).num_samples == 1


def test_the_same_request_id_starts_one_commit_and_never_another(client: IngestClient) -> None:
    one, other = client.create("commit-id", NUMBERS), client.create("commit-id", NUMBERS)
    client.send(one, [number(0)])
    client.send(other, [number(1)])
    job = client.start_commit(one, request_id="commit-1")
    assert client.start_commit(one, request_id="commit-1").name == job.name
    with pytest.raises(AlreadyExists) as caught:
        client.start_commit(other, request_id="commit-1")
    assert (caught.value.reason, caught.value.field) == ("REQUEST_ID_REUSED", "request_id")
    client.wait(job)
    assert client.num_versions("commit-id") == 1
    assert client.state(other).state == ingest_pb2.UPLOAD_STATE_OPEN


def test_a_dropped_upload_takes_nothing_more(client: IngestClient) -> None:
    upload = client.create("dropped")
    client.send(upload, [picture(0)])
    for _ in range(2):
        client.ingest.DeleteUpload(ingest_pb2.DeleteUploadRequest(name=upload))
    assert client.state(upload).state == ingest_pb2.UPLOAD_STATE_DELETED
    for call in (client.send, lambda name, _: client.start_commit(name)):
        with pytest.raises(FailedPrecondition) as caught:
            call(upload, [picture(1)])
        assert caught.value.reason == "UPLOAD_CLOSED"


def test_a_message_over_the_limit_is_refused_and_the_service_goes_on(mesh: IngestMesh) -> None:
    client = mesh.client()
    upload = client.create("large", NUMBERS)
    message = ingest_pb2.UploadSamplesRequest(upload=upload, samples=[picture(0)])
    message.samples[0].fields.append(field("data", bytes(65 << 20)))
    generous = mesh.ingest.channel(max_message_bytes=128 << 20)
    with pytest.raises(MeshError) as caught:
        IngestClient(generous, mesh.registry.channel()).ingest.UploadSamples(iter([message]))
    assert caught.value.code in ("RESOURCE_EXHAUSTED", "CANCELLED")
    assert client.send(upload, [number(0)]).num_samples == 1


def test_open_uploads_are_listed_without_their_schemas(client: IngestClient) -> None:
    older, newer, dropped = (client.create("listed", NUMBERS) for _ in range(3))
    client.send(older, [number(0)])
    client.ingest.DeleteUpload(ingest_pb2.DeleteUploadRequest(name=dropped))
    first = client.ingest.ListUploads(ingest_pb2.ListUploadsRequest(page_size=1))
    assert [upload.name for upload in first.uploads] == [newer]
    rest = client.ingest.ListUploads(ingest_pb2.ListUploadsRequest(page_token=first.next_page_token))
    found = rest.uploads[0]
    assert (found.name, found.dataset, found.num_samples) == (older, "datasets/listed", 1)
    assert not found.HasField("schema")
    assert found.create_time.ToMicroseconds() < found.update_time.ToMicroseconds()
    assert (found.update_time, found.state) == (client.state(older).update_time, ingest_pb2.UPLOAD_STATE_OPEN)


def test_the_service_drops_an_upload_that_its_client_has_left_behind(own_mesh: IngestMesh) -> None:
    client = own_mesh.client()
    upload = client.create("left-behind", NUMBERS)
    client.send(upload, [number(0)])
    other = own_mesh.process("ingest", upload_expiry_days="0.00001")
    other.start()
    try:
        wait_until(lambda: client.state(upload).state == ingest_pb2.UPLOAD_STATE_DELETED, "its expiry")
    finally:
        other.close()
    assert f"deleted {upload}" in other.log


def test_sources_must_exist_before_an_upload_is_created(client: IngestClient) -> None:
    upload = client.create("sources")
    client.send(upload, [picture(0)])
    version = client.commit(upload).name
    open_uploads = list(client.ingest.ListUploads(ingest_pb2.ListUploadsRequest()).uploads)

    def create(*sources: str) -> str:
        request = ingest_pb2.CreateUploadRequest(dataset="datasets/made", schema=SCHEMA, sources=sources)
        return str(client.ingest.CreateUpload(request).upload.name)

    for source, reason in (
        ("nonsense", "BAD_NAME"),
        ("runs/", "BAD_NAME"),
        ("datasets/sources", "BAD_NAME"),
        ("datasets/sources/versions/01", "BAD_NAME"),
        ("datasets/sources/versions/latest", "BAD_NAME"),
        ("datasets/none/versions/1", "DATASET_NOT_FOUND"),
        ("datasets/sources/versions/2", "DATASET_VERSION_NOT_FOUND"),
        ("models/none/versions/1", "MODEL_NOT_FOUND"),
        ("runs/" + "r" * 252, "TOO_LARGE"),
    ):
        with pytest.raises((InvalidArgument, NotFound)) as caught:
            create(version, source)
        assert (caught.value.reason, caught.value.field) == (reason, "sources[1]")
    with pytest.raises(InvalidArgument, match="at most 128") as caught:
        create(*[version] * 129)
    assert caught.value.field == "sources"
    assert list(client.ingest.ListUploads(ingest_pb2.ListUploadsRequest()).uploads) == open_uploads
    made = create(version, "runs/r")
    client.send(made, [picture(1)])
    assert list(client.commit(made).sources) == [version, "runs/r"]
