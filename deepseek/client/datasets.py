"""Client of a mesh's data sets: uploads samples, commits them as a version, and reads them.

Names may have any form that `deepseek.client.names` reads, e.g. `colours:3`.
"""

from __future__ import annotations

import contextlib
import itertools
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from common.errors import InvalidArgument, MeshError, Unavailable
from common.scalars import python_value
from deepseek.client import jobs, names
from deepseek.client.artifacts import Artifacts
from deepseek.client.connection import Connection
from deepseek.client.pages import pages
from deepseek.client.rejects import rejected_from_proto, rejected_to_proto
from deepseek.client.resume import PATIENCE_S, RETRY_INTERVAL_S, Patience, resumed
from deepseek.client.users_of_versions import check_no_run_uses
from deepseek.data.manifest import DatasetManifest, Field
from deepseek.data.rejected import Rejected
from deepseek.data.sample import Sample
from protos.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from protos.job.v1 import job_pb2
from protos.registry.v1 import registry_pb2, registry_pb2_grpc

MESSAGE_BYTES = 1 << 20
"""Target size of a message that contains several samples: large enough to be fast, and far below the message limit."""


class Datasets:
    """Client of a mesh's data sets, available as `Mesh.datasets`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._artifacts = Artifacts(connection)

    def upload(
        self,
        dataset: str,
        fields: Sequence[Field],
        samples: Iterable[Sample | Rejected],
        *,
        quarantine: bool = False,
        sources: Sequence[str] = (),
        on_quarantine: Callable[[Iterator[Rejected]], None] | None = None,
        on_sample: Callable[[int], None] | None = None,
        on_change: Callable[[job_pb2.Job], None] | None = None,
    ) -> registry_pb2.DatasetVersion:
        """Uploads samples and commits them as one data set version.

        Args:
            dataset: Name of the data set, which need not exist.
            fields: Columns of the data set.
            samples: Samples, read lazily. If they can be iterated more than once (a sequence, not a generator), an
                interrupted upload resumes after the last sample that the service has stored. With `quarantine`, there
                may also be rejected samples, which the service keeps aside without a check.
            quarantine: Whether to keep invalid samples aside, each with the reason, instead of failing. The method
                `quarantined` returns them.
            sources: Names of the resources that the version is made from, e.g. `datasets/colours:1` or `runs/x7`.
            on_quarantine: Called before the commit with all samples that were kept aside, without their values. If it
                raises an error, nothing is committed.
            on_sample: Called for each sample, with the number of samples sent so far.
            on_change: Called with each update of the commit job.

        Returns:
            The new version, or the existing version that already has exactly these samples.

        Raises:
            MeshError: Any error that `IngestService` documents. No incomplete version remains, and an upload whose
                samples could not be sent is deleted.
        """
        upload = self._ingest.CreateUpload(
            ingest_pb2.CreateUploadRequest(
                dataset=f"datasets/{names.series_id(dataset, 'datasets', field='dataset')}",
                schema=ingest_pb2.Schema(fields=[_field_to_proto(field) for field in fields]),
                request_id=uuid.uuid4().hex,
                quarantine=quarantine,
                sources=[names.resource_name(source, field="sources") for source in sources],
            )
        ).upload
        try:
            self._send(upload.name, samples, fields, on_sample)
            if on_quarantine:
                on_quarantine(self.quarantined(upload.name, values=False))
        except Unavailable as error:
            message = (
                f"{error.message}; the upload remains open: `deepseek dataset drop-upload {upload.name}` deletes it"
            )
            raise Unavailable(error.reason, message) from error
        except BaseException:
            with contextlib.suppress(MeshError):
                self.drop_upload(upload.name)
            raise
        job = self._ingest.CommitUpload(
            ingest_pb2.CommitUploadRequest(name=upload.name, request_id=uuid.uuid4().hex)
        ).job
        return self.version(jobs.wait(self._connection.channel("ingest"), job, on_change=on_change).result)

    def _send(
        self,
        upload: str,
        samples: Iterable[Sample | Rejected],
        fields: Sequence[Field],
        on_sample: Callable[[int], None] | None,
    ) -> None:
        offset, patience = 0, Patience(PATIENCE_S)
        while True:
            try:
                self._ingest.UploadSamples(_messages(upload, samples, fields, offset, on_sample))
                return
            except (Unavailable, InvalidArgument) as error:
                # The service may still be storing samples from the broken stream when `GetUpload` reports the offset.
                # The next stream then starts at an outdated offset and fails with OFFSET_MISMATCH.
                broken = isinstance(error, Unavailable) or error.reason == "OFFSET_MISMATCH"
                if not broken or iter(samples) is samples or patience.is_over:
                    raise
            time.sleep(RETRY_INTERVAL_S)
            with contextlib.suppress(Unavailable):
                state = self._ingest.GetUpload(ingest_pb2.GetUploadRequest(name=upload)).upload
                durable = state.num_samples + state.num_quarantined
                if durable > offset:
                    offset = durable
                    patience.progressed()

    def uploads(self) -> Iterator[ingest_pb2.Upload]:
        """Yields every open upload, newest first, including those left behind by killed clients."""
        for page in pages(self._ingest.ListUploads, ingest_pb2.ListUploadsRequest()):
            yield from page.uploads

    def drop_upload(self, name: str) -> None:
        """Deletes an uncommitted upload (`uploads/<id>`). Idempotent."""
        self._ingest.DeleteUpload(ingest_pb2.DeleteUploadRequest(name=names.upload_name(name)))

    def version(self, name: str) -> registry_pb2.DatasetVersion:
        """Returns a version by name, e.g. `colours`, `colours:3` or `colours@champion`."""
        request = registry_pb2.GetDatasetVersionRequest(name=names.version_name(name, "datasets", field="name"))
        version: registry_pb2.DatasetVersion = self._registry.GetDatasetVersion(request).dataset_version
        return version

    def manifest(self, version: registry_pb2.DatasetVersion) -> DatasetManifest:
        """Reads and verifies the manifest of a version."""
        return DatasetManifest.from_bytes(self._artifacts.read(version.manifest.sha256))

    def list(self) -> Iterator[registry_pb2.Dataset]:
        """Yields every data set, ordered by id."""
        for page in pages(self._registry.ListDatasets, registry_pb2.ListDatasetsRequest()):
            yield from page.datasets

    def versions(self, dataset: str) -> Iterator[registry_pb2.DatasetVersion]:
        """Yields every version of a data set, newest first."""
        parent = f"datasets/{names.series_id(dataset, 'datasets', field='dataset')}"
        request = registry_pb2.ListDatasetVersionsRequest(parent=parent)
        for page in pages(self._registry.ListDatasetVersions, request):
            yield from page.dataset_versions

    def quarantined(self, name: str, *, values: bool = True) -> Iterator[Rejected]:
        """Yields the quarantined samples of an upload or version, in the order in which they were sent.

        Args:
            name: `uploads/<id>`, or the name of a version in any form that the method `version` accepts.
            values: Whether to read the values of the samples, too. The values of a sample that does not fit into a
                message are always missing.

        Raises:
            MeshError: Any error that `IngestService.ReadQuarantine` documents.
        """
        parent = name if name.startswith("uploads/") else names.version_name(name, "datasets", field="name")
        position = 0

        def rest() -> Iterator[ingest_pb2.ReadQuarantineResponse]:
            request = ingest_pb2.ReadQuarantineRequest(parent=parent, after_position=position, omit_fields=not values)
            return iter(self._ingest.ReadQuarantine(request))

        for response in resumed(rest):
            position = response.samples[-1].rejection.position
            yield from map(rejected_from_proto, response.samples)

    def delete(self, name: str, *, every: bool = False) -> None:
        """Deletes a version, or a data set with all its versions. `deepseek gc` then deletes the samples.

        Args:
            name: Name of a version with its number, e.g. `colours:3`. With `every`, name of the data set.
            every: Whether to delete a data set with all its versions.

        Raises:
            InvalidArgument: BAD_NAME.
            FailedPrecondition: VERSION_IN_USE if an alias points at a version, a model or another version was made from
                it, or an active run trains on it. The message says what uses the version.
            MeshError: The trainer does not respond, so its runs are unknown.
        """
        name = names.deletable_name(name, "datasets", field="name", every=every)
        check_no_run_uses(self._connection, name)
        request_id = uuid.uuid4().hex
        if not every:
            version = registry_pb2.DeleteDatasetVersionRequest(name=name, request_id=request_id)
            self._registry.DeleteDatasetVersion(version)
        else:
            self._registry.DeleteDataset(registry_pb2.DeleteDatasetRequest(name=name, request_id=request_id))

    def read(self, version: str, split: str = "train") -> Iterator[ingest_pb2.Sample]:
        """Yields the samples of a version in the order in which they are stored. Resumes if the service restarts."""
        for batch in self.read_batches(version, split):
            yield from batch.samples

    def read_batches(
        self, version: str, split: str = "train", *, cursor: str = "", patience_s: float = PATIENCE_S
    ) -> Iterator[ingest_pb2.ReadSamplesResponse]:
        """Yields the samples of a version in batches.

        Given the `cursor` of a batch, a later call can continue after that batch.

        Args:
            version: Name of the version, which may be an alias. If the alias moves while the samples are read, and the
                service then restarts, the stream fails with BAD_CURSOR.
            split: Split of the version.
            cursor: Cursor of the last batch that was already read from this version and split; empty to read from the
                start.
            patience_s: Time in seconds. If the service is unavailable, this call retries until it has waited this long
                for the next batch.

        Raises:
            MeshError: Any error that `IngestService.ReadSamples` documents.
        """
        name = names.version_name(version, "datasets", field="dataset_version")

        def rest() -> Iterator[ingest_pb2.ReadSamplesResponse]:
            request = ingest_pb2.ReadSamplesRequest(dataset_version=name, split=split, cursor=cursor)
            return iter(self._ingest.ReadSamples(request))

        for batch in resumed(rest, patience_s=patience_s):
            cursor = batch.cursor
            yield batch

    @property
    def _ingest(self) -> ingest_pb2_grpc.IngestServiceStub:
        return ingest_pb2_grpc.IngestServiceStub(self._connection.channel("ingest"))

    @property
    def _registry(self) -> registry_pb2_grpc.RegistryServiceStub:
        return registry_pb2_grpc.RegistryServiceStub(self._connection.channel("registry"))


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
            raise _wrong_type(f"{name} is {str(text)[:80]!r}, a value of type {type(text).__name__}; pass a str", name)
    place = sample.place if sample.place != sample.key else ""
    message = ingest_pb2.Sample(key=sample.key, split=sample.split, place=place)
    for name, value in sample.values.items():
        field = fields.get(name)
        items = _items(name, value) if field and field.repeated else [value]
        message.fields.add(field=name, values=[_value_to_proto(name, field, item) for item in items])
    return message


def _items(name: str, value: Any) -> Iterable[Any]:
    items = python_value(value)
    if isinstance(items, str | bytes | Mapping) or not isinstance(items, Iterable):
        raise _wrong_type(f"a value of type {type(value).__name__} is not a list of values; pass a list", name)
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
                return ingest_pb2.Value(integer=int(value))  # converts bool, which protobuf 7 rejects
            case int() | float():
                return ingest_pb2.Value(number=value)
    except (ValueError, OverflowError) as error:  # an integer of more than 64 bits, or text that is not valid Unicode
        raise _wrong_type(f"{ascii(value)[:80]} cannot be sent: {error}", name) from error
    raise _wrong_type(f"a value of type {type(given).__name__} cannot be sent; pass bytes, str, int or float", name)


def _wrong_type(message: str, field: str) -> InvalidArgument:
    return InvalidArgument("WRONG_TYPE", message, field=field)


def _messages(
    upload: str,
    samples: Iterable[Sample | Rejected],
    fields: Sequence[Field],
    offset: int,
    on_sample: Callable[[int], None] | None,
) -> Iterator[ingest_pb2.UploadSamplesRequest]:
    by_name = {field.name: field for field in fields}
    request, size = ingest_pb2.UploadSamplesRequest(upload=upload, offset=offset), 0
    for number, sample in enumerate(itertools.islice(samples, offset, None), offset + 1):
        message = rejected_to_proto(sample) if isinstance(sample, Rejected) else _sample_to_proto(sample, by_name)
        sample_size = message.ByteSize()
        # A sample that is nearly as large as the message limit is sent in a message of its own.
        if request.samples and size + sample_size > MESSAGE_BYTES:
            yield request
            request, size = ingest_pb2.UploadSamplesRequest(offset=number - 1), 0
        request.samples.append(message)
        size += sample_size
        if on_sample:
            on_sample(number)
    yield request
