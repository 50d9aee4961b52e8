"""A client of ingest as any team might write one, for the tests."""

from collections.abc import Callable, Iterable, Iterator, Sequence

import grpc
import numpy as np

from common.errors import InvalidArgument
from deepseek.client import jobs
from protos.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from protos.job.v1 import job_pb2
from protos.registry.v1 import registry_pb2, registry_pb2_grpc
from tests.harness.images import image_file

SCHEMA = ingest_pb2.Schema(
    fields=[
        ingest_pb2.FieldSchema(name="image", type=ingest_pb2.FIELD_TYPE_IMAGE),
        ingest_pb2.FieldSchema(name="question", type=ingest_pb2.FIELD_TYPE_TEXT, repeated=True),
        ingest_pb2.FieldSchema(
            name="answer", type=ingest_pb2.FIELD_TYPE_LABEL, repeated=True, labels=["circle", "square"]
        ),
        ingest_pb2.FieldSchema(name="width", type=ingest_pb2.FIELD_TYPE_INTEGER),
        ingest_pb2.FieldSchema(name="area", type=ingest_pb2.FIELD_TYPE_NUMBER),
    ]
)
"""Pictures with questions."""

NUMBERS = ingest_pb2.Schema(fields=[ingest_pb2.FieldSchema(name="number", type=ingest_pb2.FIELD_TYPE_INTEGER)])
"""The smallest samples."""

BLOBS = ingest_pb2.Schema(fields=[ingest_pb2.FieldSchema(name="data", type=ingest_pb2.FIELD_TYPE_BYTES)])
"""Samples of any size."""


def value(of: bytes | str | int | float) -> ingest_pb2.Value:
    """A value of the kind of its Python type."""
    match of:
        case bytes():
            return ingest_pb2.Value(data=of)
        case str():
            return ingest_pb2.Value(text=of)
        case int():
            return ingest_pb2.Value(integer=of)
        case _:
            return ingest_pb2.Value(number=of)


def field(name: str, *values: bytes | str | int | float) -> ingest_pb2.FieldValue:
    """A field with its values."""
    return ingest_pb2.FieldValue(field=name, values=map(value, values))


def picture(i: int, split: str = "train", key: str | None = None) -> ingest_pb2.Sample:
    """A good sample of SCHEMA."""
    return ingest_pb2.Sample(
        key=f"picture-{i}" if key is None else key,
        split=split,
        fields=[
            field("image", image_file(i % 64, (8, 8))),
            field("question", "what shape is it?", f"is it number {i}?"),
            field("answer", "circle", "square"),
            field("width", 8),
            field("area", i / 7),
        ],
    )


def number(i: int, split: str = "train") -> ingest_pb2.Sample:
    """A good sample of NUMBERS."""
    return ingest_pb2.Sample(key=f"number-{i}", split=split, fields=[field("number", i)])


def blob(i: int, size: int) -> ingest_pb2.Sample:
    """A good sample of BLOBS that does not compress."""
    data = np.random.default_rng(i).bytes(size)
    return ingest_pb2.Sample(key=f"blob-{i}", split="train", fields=[field("data", data)])


def messages(
    upload: str, samples: Iterable[ingest_pb2.Sample], *, offset: int = 0, sizes: Sequence[int] = (64,)
) -> Iterator[ingest_pb2.UploadSamplesRequest]:
    """The messages of a stream; `sizes` says how many samples each holds, over and over."""
    message, number_of_message = ingest_pb2.UploadSamplesRequest(upload=upload, offset=offset), 0
    for position, sample in enumerate(samples, offset + 1):
        message.samples.append(sample)
        if len(message.samples) >= sizes[number_of_message % len(sizes)]:
            yield message
            message, number_of_message = ingest_pb2.UploadSamplesRequest(offset=position), number_of_message + 1
    yield message


class IngestClient:
    """Calls to ingest and the registry.

    Args:
        ingest: Channel to ingest.
        registry: Channel to the registry.
    """

    def __init__(self, ingest: grpc.Channel, registry: grpc.Channel) -> None:
        self.channel = ingest
        self.ingest = ingest_pb2_grpc.IngestServiceStub(ingest)
        self.registry = registry_pb2_grpc.RegistryServiceStub(registry)

    def create(self, dataset: str, schema: ingest_pb2.Schema = SCHEMA, request_id: str = "") -> str:
        """Name of a new upload."""
        request = ingest_pb2.CreateUploadRequest(dataset=f"datasets/{dataset}", schema=schema, request_id=request_id)
        return str(self.ingest.CreateUpload(request).upload.name)

    def send(
        self, upload: str, samples: Iterable[ingest_pb2.Sample], *, offset: int = 0, sizes: Sequence[int] = (64,)
    ) -> ingest_pb2.Upload:
        """Streams samples to the end."""
        requests = messages(upload, samples, offset=offset, sizes=sizes)
        response: ingest_pb2.UploadSamplesResponse = self.ingest.UploadSamples(requests, timeout=120)
        return response.upload

    def resume(self, upload: str, samples: Sequence[ingest_pb2.Sample]) -> ingest_pb2.Upload:
        """Sends what is not durable yet, as a client does whose stream was cut off."""
        while True:
            offset = self.state(upload).num_samples
            try:
                return self.send(upload, samples[offset:], offset=offset)
            except InvalidArgument as error:
                # The service was still saving what the stream before had sent.
                if error.reason != "OFFSET_MISMATCH":
                    raise

    def state(self, upload: str) -> ingest_pb2.Upload:
        """The upload as the service sees it."""
        response: ingest_pb2.GetUploadResponse = self.ingest.GetUpload(ingest_pb2.GetUploadRequest(name=upload))
        return response.upload

    def start_commit(self, upload: str, request_id: str = "") -> job_pb2.Job:
        """Starts the commit's job."""
        request = ingest_pb2.CommitUploadRequest(name=upload, request_id=request_id)
        response: ingest_pb2.CommitUploadResponse = self.ingest.CommitUpload(request)
        return response.job

    def wait(self, job: job_pb2.Job, on_change: Callable[[job_pb2.Job], None] | None = None) -> str:
        """The result of a job, once it has one."""
        return jobs.wait(self.channel, job, on_change=on_change).result

    def commit(self, upload: str) -> registry_pb2.DatasetVersion:
        """Commits and waits for the version."""
        return self.version(self.wait(self.start_commit(upload)))

    def version(self, name: str) -> registry_pb2.DatasetVersion:
        """A version by its name."""
        request = registry_pb2.GetDatasetVersionRequest(name=name)
        response: registry_pb2.GetDatasetVersionResponse = self.registry.GetDatasetVersion(request)
        return response.dataset_version

    def num_versions(self, dataset: str) -> int:
        """How many versions a data set has."""
        request = registry_pb2.ListDatasetVersionsRequest(parent=f"datasets/{dataset}")
        return len(self.registry.ListDatasetVersions(request).dataset_versions)

    def read(
        self, version: str, split: str = "train", *, cursor: str = "", batch_size: int = 0
    ) -> Iterator[ingest_pb2.ReadSamplesResponse]:
        """The messages of a reading stream."""
        request = ingest_pb2.ReadSamplesRequest(
            dataset_version=version, split=split, cursor=cursor, batch_size=batch_size
        )
        stream: Iterator[ingest_pb2.ReadSamplesResponse] = self.ingest.ReadSamples(request)
        return stream
