"""Data sets: stream samples in, commit them to a version, read them back."""

from __future__ import annotations

import contextlib
import itertools
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from common.errors import InvalidArgument, Unavailable
from common.scalars import python_value
from deepseek.client import jobs
from deepseek.client.pages import pages
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample
from protos.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from protos.job.v1 import job_pb2
from protos.registry.v1 import registry_pb2, registry_pb2_grpc

if TYPE_CHECKING:
    from deepseek.client.mesh import Mesh

MESSAGE_BYTES = 1 << 20
"""Samples are sent in messages of about this size: large enough for speed, far below the message limit."""
RETRY_S = 0.2
PATIENCE_S = 30
"""How long the service may be away, without a sample getting through, before an upload or a reader gives up."""


class Datasets:
    """Reached as `Mesh.datasets`."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._ingest = ingest_pb2_grpc.IngestServiceStub(mesh.channel("ingest"))

    def upload(
        self,
        dataset: str,
        fields: Sequence[Field],
        samples: Iterable[Sample],
        *,
        on_sample: Callable[[int], None] | None = None,
        on_change: Callable[[job_pb2.Job], None] | None = None,
    ) -> registry_pb2.DatasetVersion:
        """Uploads samples and commits them as one data set version.

        Args:
            dataset: Id of the data set; it need not exist.
            fields: Its columns.
            samples: The samples, taken lazily. If they can be gone through again (a sequence, say; not a generator), a
                stream that breaks is resumed after the last durable sample.
            on_sample: Called with the number of samples sent so far.
            on_change: Called with every state of the job that commits them.

        Returns:
            The version; an existing one if the data set has one with exactly these samples.

        Raises:
            MeshError: As `IngestService` documents; the version is made wholly or not at all.
        """
        upload = self._ingest.CreateUpload(
            ingest_pb2.CreateUploadRequest(
                dataset=f"datasets/{dataset}",
                schema=ingest_pb2.Schema(fields=[_field_to_proto(field) for field in fields]),
                request_id=uuid.uuid4().hex,
            )
        ).upload
        self._send(upload.name, samples, fields, on_sample)
        job = self._ingest.CommitUpload(
            ingest_pb2.CommitUploadRequest(name=upload.name, request_id=uuid.uuid4().hex)
        ).job
        return self.version(jobs.wait(self._mesh.channel("ingest"), job, on_change=on_change).result)

    def _send(
        self,
        upload: str,
        samples: Iterable[Sample],
        fields: Sequence[Field],
        on_sample: Callable[[int], None] | None,
    ) -> None:
        offset, last_progress = 0, time.monotonic()
        while True:
            try:
                self._ingest.UploadSamples(_messages(upload, samples, fields, offset, on_sample))
                return
            except (Unavailable, InvalidArgument) as error:
                # The service may still be saving what a broken stream had sent; then the next one's offset is wrong.
                broken = isinstance(error, Unavailable) or error.reason == "OFFSET_MISMATCH"
                if not broken or iter(samples) is samples or time.monotonic() - last_progress > PATIENCE_S:
                    raise
            time.sleep(RETRY_S)
            with contextlib.suppress(Unavailable):
                durable = self._ingest.GetUpload(ingest_pb2.GetUploadRequest(name=upload)).upload.num_samples
                if durable > offset:
                    offset, last_progress = durable, time.monotonic()

    def uploads(self) -> Iterator[ingest_pb2.Upload]:
        """Every upload that is open: under way, or left behind by a client that was killed; newest first."""
        for page in pages(self._ingest.ListUploads, ingest_pb2.ListUploadsRequest()):
            yield from page.uploads

    def drop_upload(self, name: str) -> None:
        """Drops an upload (`uploads/<id>`) that was not committed. Idempotent."""
        self._ingest.DeleteUpload(ingest_pb2.DeleteUploadRequest(name=name))

    def version(self, name: str) -> registry_pb2.DatasetVersion:
        """Looks a version up by name (`datasets/<id>/versions/<n>`, `…/versions/latest` or an alias)."""
        request = registry_pb2.GetDatasetVersionRequest(name=name)
        version: registry_pb2.DatasetVersion = self._registry.GetDatasetVersion(request).dataset_version
        return version

    def list(self) -> Iterator[registry_pb2.Dataset]:
        """Every data set, by id."""
        for page in pages(self._registry.ListDatasets, registry_pb2.ListDatasetsRequest()):
            yield from page.datasets

    def versions(self, dataset: str) -> Iterator[registry_pb2.DatasetVersion]:
        """Every version of a data set, newest first."""
        request = registry_pb2.ListDatasetVersionsRequest(parent=f"datasets/{dataset}")
        for page in pages(self._registry.ListDatasetVersions, request):
            yield from page.dataset_versions

    def read(self, version: str, split: str = "train") -> Iterator[ingest_pb2.Sample]:
        """The samples of a version in their stored order, across restarts of the service."""
        for batch in self.read_batches(version, split):
            yield from batch.samples

    def read_batches(
        self, version: str, split: str = "train", *, cursor: str = ""
    ) -> Iterator[ingest_pb2.ReadSamplesResponse]:
        """The samples of a version in batches, each with the `cursor` from which a later call goes on after it.

        Args:
            version: Name of the version. An alias that is moved meanwhile ends the stream with BAD_CURSOR if the
                service is restarted.
            split: Which split of it.
            cursor: Of an earlier batch of this version and split; empty for the start.

        Raises:
            MeshError: As `IngestService.ReadSamples` documents.
        """
        last_progress = time.monotonic()
        while True:
            try:
                for batch in self._ingest.ReadSamples(
                    ingest_pb2.ReadSamplesRequest(dataset_version=version, split=split, cursor=cursor)
                ):
                    cursor = batch.cursor
                    yield batch
                    last_progress = time.monotonic()  # not before: a caller may take its time
                return
            except Unavailable:
                if time.monotonic() - last_progress > PATIENCE_S:
                    raise
            time.sleep(RETRY_S)

    @property
    def _registry(self) -> registry_pb2_grpc.RegistryServiceStub:
        return registry_pb2_grpc.RegistryServiceStub(self._mesh.channel("registry"))


def _field_to_proto(field: Field) -> ingest_pb2.FieldSchema:
    return ingest_pb2.FieldSchema(
        name=field.name,
        type=f"FIELD_TYPE_{field.type.upper()}",
        repeated=field.repeated,
        labels=field.labels,
    )


def _sample_to_proto(sample: Sample, fields: Mapping[str, Field]) -> ingest_pb2.Sample:
    for name, text in (("key", sample.key), ("split", sample.split)):
        if not isinstance(text, str):
            raise _wrong_type(f"{name} is {str(text)[:80]!r}, a {type(text).__name__}; it must be a str", name)
    message = ingest_pb2.Sample(key=sample.key, split=sample.split)
    for name, value in sample.values.items():
        field = fields.get(name)
        items = _items(name, value) if field and field.repeated else [value]
        message.fields.add(field=name, values=[_value_to_proto(name, field, item) for item in items])
    return message


def _items(name: str, value: Any) -> Iterable[Any]:
    items = python_value(value)
    if isinstance(items, str | bytes | Mapping) or not isinstance(items, Iterable):
        raise _wrong_type(f"a {type(value).__name__} cannot be sent as a list of values; give a list", name)
    return items


def _value_to_proto(name: str, field: Field | None, given: Any) -> ingest_pb2.Value:
    value = bytes(given) if isinstance(given, bytearray | memoryview) else python_value(given)
    try:
        match value:
            case bytes():
                return ingest_pb2.Value(data=value)
            case str():
                return ingest_pb2.Value(text=value)
            case int() if not field or field.type != "number":
                return ingest_pb2.Value(integer=int(value))  # protobuf 7 takes no bool
            case int() | float():
                return ingest_pb2.Value(number=value)
    except (ValueError, OverflowError) as error:  # more than 64 bits, or not valid Unicode
        raise _wrong_type(f"{ascii(value)[:80]} cannot be sent: {error}", name) from error
    raise _wrong_type(f"a {type(given).__name__} cannot be sent; give bytes, str, int or float", name)


def _wrong_type(message: str, field: str) -> InvalidArgument:
    return InvalidArgument("WRONG_TYPE", message, field=field)


def _messages(
    upload: str,
    samples: Iterable[Sample],
    fields: Sequence[Field],
    offset: int,
    on_sample: Callable[[int], None] | None,
) -> Iterator[ingest_pb2.UploadSamplesRequest]:
    by_name = {field.name: field for field in fields}
    request, size = ingest_pb2.UploadSamplesRequest(upload=upload, offset=offset), 0
    for number, sample in enumerate(itertools.islice(samples, offset, None), offset + 1):
        message = _sample_to_proto(sample, by_name)
        sample_size = message.ByteSize()
        # A sample that only just fits into a message must be alone in it.
        if request.samples and size + sample_size > MESSAGE_BYTES:
            yield request
            request, size = ingest_pb2.UploadSamplesRequest(offset=number - 1), 0
        request.samples.append(message)
        size += sample_size
        if on_sample:
            on_sample(number)
    yield request
