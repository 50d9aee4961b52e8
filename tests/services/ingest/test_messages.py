"""Every accepted sample can be read back, whatever the message limit; others are refused on upload."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from common.artifacts import open_store
from common.errors import InvalidArgument, ResourceExhausted
from deepseek.client import Mesh, MeshFile, ServiceAddress
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample
from protos.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from services.ingest.clients.registry import RegistryClient
from services.ingest.reader import Reader
from services.ingest.samples import ENVELOPE_BYTES, message_bytes, num_bytes, surely_fits
from services.ingest.servicer import _sample_to_proto
from tests.harness.in_process import service_in_process

LIMIT = 1 << 20
BLOBS = [Field("data", "bytes")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("messages")


@pytest.fixture(scope="module")
def mesh(home: Path) -> Iterator[Mesh]:
    with ExitStack() as owned:
        registry = owned.enter_context(service_in_process("registry", home))
        limited = service_in_process("ingest", home, registry=registry.address, max_message_bytes=LIMIT)
        ingest = owned.enter_context(limited)
        services = {"registry": ServiceAddress(registry.address), "ingest": ServiceAddress(ingest.address)}
        yield owned.enter_context(Mesh(MeshFile(services)))


def largest(key: str) -> Sample:
    """A sample that just fits."""
    size = LIMIT
    while message_bytes(sample := Sample(key, "train", {"data": bytes(size)}), BLOBS) > LIMIT - ENVELOPE_BYTES:
        size -= 1
    return sample


@pytest.mark.parametrize("length", [0, 1, 127, 128, 70_000])
def test_the_size_of_a_sample_in_a_message_is_protobufs(length: int) -> None:
    fields = [Field("b", "bytes"), Field("texts", "text", repeated=True), Field("i", "integer", repeated=True)]
    fields += [Field("x", "number"), Field("of_no_values", "number", repeated=True)]
    integers = [0, 1, -1, 127, 128, (1 << 63) - 1, -(1 << 63)]
    values = {"b": bytes(length), "texts": ["ä" * length] * 7, "i": integers, "x": 0.0, "of_no_values": []}
    sample = Sample("schlüssel", "train", values)
    message = ingest_pb2.ReadSamplesResponse(samples=[_sample_to_proto(sample, "0" * 64)])
    assert message_bytes(sample, fields) == message.ByteSize()
    assert not surely_fits(sample, num_bytes(sample), message.ByteSize() - 1)


def test_the_largest_samples_come_back_and_do_not_keep_others_from_being_read(mesh: Mesh) -> None:
    samples = [Sample("small", "train", {"data": b"x"}), largest("a" * 255), Sample("next", "train", {"data": b"y"})]
    version = mesh.datasets.upload("d" * 63, BLOBS, samples)
    read = list(mesh.datasets.read(version.name))
    assert [(one.key, one.fields[0].values[0].data) for one in read] == [
        (one.key, one.values["data"]) for one in samples
    ]
    assert mesh.artifacts.read(version.manifest.sha256)


def test_a_sample_that_could_not_be_read_again_is_refused(mesh: Mesh) -> None:
    sample = largest("k")
    with pytest.raises(
        InvalidArgument, match=f"at most {LIMIT - ENVELOPE_BYTES} fit.* raise `max_message_bytes`"
    ) as caught:
        mesh.datasets.upload("large", BLOBS, [Sample("k", "train", {"data": sample.values["data"] + b"x"})])
    assert (caught.value.reason, caught.value.field) == ("TOO_LARGE", "samples[k]")


def test_integers_that_come_back_as_numbers_count_as_such(mesh: Mesh) -> None:
    stub = ingest_pb2_grpc.IngestServiceStub(mesh.channel("ingest"))
    schema = ingest_pb2.Schema(fields=[ingest_pb2.FieldSchema(name="x", type="FIELD_TYPE_NUMBER", repeated=True)])
    upload = stub.CreateUpload(ingest_pb2.CreateUploadRequest(dataset="datasets/numbers", schema=schema)).upload.name
    field = ingest_pb2.FieldValue(field="x", values=[ingest_pb2.Value(integer=1)] * 200_000)
    request = ingest_pb2.UploadSamplesRequest(upload=upload, samples=[ingest_pb2.Sample(key="k", fields=[field])])
    assert request.ByteSize() < LIMIT
    with pytest.raises(InvalidArgument) as caught:
        stub.UploadSamples(iter([request]))
    assert caught.value.reason == "TOO_LARGE"


def test_batches_fit_a_message_whatever_is_in_them(mesh: Mesh) -> None:
    fields = [Field("text", "text"), Field("ids", "integer", repeated=True)]
    samples = [Sample(f"k{i}", "train", {"text": "मे" * 5000, "ids": [-1] * 2000}) for i in range(100)]
    version = mesh.datasets.upload("batches", fields, samples)
    batches = list(mesh.datasets.read_batches(version.name))
    assert [one.key for batch in batches for one in batch.samples] == [one.key for one in samples]
    assert max(batch.ByteSize() for batch in batches) <= LIMIT


def test_a_blob_larger_than_a_message_is_read_in_pieces(mesh: Mesh, home: Path) -> None:
    content = bytes(range(256)) * (3 * LIMIT // 256)
    sha256 = open_store((home / "store").as_uri()).put("default", content, "application/octet-stream").sha256
    assert mesh.artifacts.read(sha256) == content


def test_a_client_may_take_other_messages_than_by_default(mesh: Mesh) -> None:
    version = mesh.datasets.upload("tight", BLOBS, [Sample("k", "train", {"data": bytes(5000)})])
    with Mesh(mesh._file, max_message_bytes=4096) as tight, pytest.raises(ResourceExhausted) as caught:
        list(tight.datasets.read(version.name))
    assert caught.value.reason == "MESSAGE_TOO_LARGE"


def test_a_sample_from_before_the_limit_is_named(mesh: Mesh, home: Path) -> None:
    version = mesh.datasets.upload("before", BLOBS, [Sample("k", "train", {"data": bytes(5000)})])
    store = open_store((home / "store").as_uri())
    reader = Reader(store, RegistryClient(mesh.channel("registry")), max_message_bytes=4096)
    with pytest.raises(ResourceExhausted, match=r"the sample 'k' needs 5\d+ bytes in a message") as caught:
        list(reader.read("default", version.name, "", cursor="", batch_size=0))
    assert (caught.value.reason, caught.value.field) == ("MESSAGE_TOO_LARGE", "samples[k]")


def test_a_schema_that_could_not_be_read_again_is_refused(mesh: Mesh) -> None:
    labels = tuple(f"{i:0100}" for i in range((LIMIT - 120) // 102))
    with pytest.raises(InvalidArgument) as caught:
        mesh.datasets.upload("schema", [Field("label", "label", labels=labels)], [])
    assert (caught.value.reason, caught.value.field) == ("TOO_LARGE", "schema")
