"""Exposes `Uploads` and `Reader` as the gRPC service IngestService; converts between protobuf and the domain."""

from collections.abc import Iterator
from typing import Any

import grpc

from common.database import PageRequest
from common.errors import InvalidArgument
from common.jobs.proto import job_to_proto
from common.proto import repeatable, timestamp
from common.server import caller, received
from deepseek.data.manifest import Field
from deepseek.data.quarantine import from_row
from deepseek.data.rejected import Rejected
from deepseek.data.sample import Sample
from deepseek.data.shards import DEFAULT_SPLIT
from protos.ingest.v1 import ingest_pb2 as pb
from protos.ingest.v1 import ingest_pb2_grpc
from services.ingest.quarantine import QuarantineReader
from services.ingest.reader import BATCH_BYTES, Reader
from services.ingest.samples import ENVELOPE_BYTES, Received, ReceivedSample
from services.ingest.uploads import Upload, Uploads, UploadState

_STATES = {
    UploadState.OPEN: pb.UPLOAD_STATE_OPEN,
    UploadState.COMMITTED: pb.UPLOAD_STATE_COMMITTED,
    UploadState.DELETED: pb.UPLOAD_STATE_DELETED,
}
_TYPE_PREFIX = "FIELD_TYPE_"

MAX_SCHEMA_BYTES = 16 << 20
"""Maximum size of an encoded schema. A schema becomes part of a manifest, which may be at most 64 MiB long."""


class IngestServicer(ingest_pb2_grpc.IngestServiceServicer):
    """Implements `deepseek.ingest.v1.IngestService`.

    Args:
        uploads: Uploads of all tenants.
        reader: Reader of data set versions.
        quarantines: Reader of quarantines.
        max_message_bytes: Maximum message size of the server, in bytes.
    """

    def __init__(
        self, uploads: Uploads, reader: Reader, quarantines: QuarantineReader, *, max_message_bytes: int
    ) -> None:
        self._uploads = uploads
        self._reader = reader
        self._quarantines = quarantines
        self._max_sample_bytes = max_message_bytes - ENVELOPE_BYTES
        self._max_schema_bytes = min(MAX_SCHEMA_BYTES, max_message_bytes - ENVELOPE_BYTES)

    def CreateUpload(self, request: pb.CreateUploadRequest, context: grpc.ServicerContext) -> pb.CreateUploadResponse:
        if (num_bytes := request.schema.ByteSize()) > self._max_schema_bytes:
            message = (
                f"the schema has {num_bytes} bytes; at most {self._max_schema_bytes} are accepted. Shorten the labels"
            )
            raise InvalidArgument("TOO_LARGE", message, field="schema")
        upload = self._uploads.create(
            caller(context).tenant,
            request.dataset,
            [_field_from_proto(field) for field in request.schema.fields],
            repeatable("CreateUpload", request, request.request_id),
            quarantine=request.quarantine,
            sources=request.sources,
        )
        return pb.CreateUploadResponse(upload=_upload_to_proto(upload))

    def GetUpload(self, request: pb.GetUploadRequest, context: grpc.ServicerContext) -> pb.GetUploadResponse:
        upload = self._uploads.get(caller(context).tenant, request.name)
        return pb.GetUploadResponse(upload=_upload_to_proto(upload))

    def ListUploads(self, request: pb.ListUploadsRequest, context: grpc.ServicerContext) -> pb.ListUploadsResponse:
        uploads, token = self._uploads.list(caller(context).tenant, PageRequest(request.page_size, request.page_token))
        return pb.ListUploadsResponse(uploads=map(_upload_to_proto, uploads), next_page_token=token)

    def UploadSamples(
        self, request_iterator: Iterator[pb.UploadSamplesRequest], context: grpc.ServicerContext
    ) -> pb.UploadSamplesResponse:
        tenant, requests = caller(context).tenant, received(request_iterator, field="upload")
        first = next(requests, None)
        if first is None:
            raise InvalidArgument(
                "MISSING_FIELD", "the stream is empty; its first message must name the upload", field="upload"
            )
        with self._uploads.write(tenant, first.upload, offset=first.offset) as writer:
            writer.add(map(_sample_from_proto, first.samples))
            position = first.offset + len(first.samples)
            for request in requests:
                if request.upload:
                    raise InvalidArgument("BAD_VALUE", "only the first message may name the upload", field="upload")
                if request.offset not in (0, position):
                    message = (
                        f"expected offset {position}, received {request.offset}: a message was lost. Earlier samples "
                        "are kept; call GetUpload and continue after the upload's durable samples"
                    )
                    raise InvalidArgument("OFFSET_MISMATCH", message, field="offset")
                writer.add(map(_sample_from_proto, request.samples))
                position += len(request.samples)
        return pb.UploadSamplesResponse(upload=_upload_to_proto(self._uploads.get(tenant, first.upload)))

    def CommitUpload(self, request: pb.CommitUploadRequest, context: grpc.ServicerContext) -> pb.CommitUploadResponse:
        job = self._uploads.commit(
            caller(context).tenant,
            request.name,
            repeatable("CommitUpload", request, request.request_id),
        )
        return pb.CommitUploadResponse(job=job_to_proto(job))

    def DeleteUpload(self, request: pb.DeleteUploadRequest, context: grpc.ServicerContext) -> pb.DeleteUploadResponse:
        self._uploads.delete(caller(context).tenant, request.name)
        return pb.DeleteUploadResponse()

    def ReadQuarantine(
        self, request: pb.ReadQuarantineRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ReadQuarantineResponse]:
        rows = self._quarantines.read(caller(context).tenant, request.parent, after_position=request.after_position)
        response, size = pb.ReadQuarantineResponse(), 0
        for row in rows:
            sample = _rejected_to_proto(from_row(row))
            if request.omit_fields or sample.ByteSize() > self._max_sample_bytes:
                del sample.fields[:]
            if response.samples and size + sample.ByteSize() > min(BATCH_BYTES, self._max_sample_bytes):
                yield response
                response, size = pb.ReadQuarantineResponse(), 0
            response.samples.append(sample)
            size += sample.ByteSize()
        if response.samples:
            yield response

    def ReadSamples(
        self, request: pb.ReadSamplesRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.ReadSamplesResponse]:
        batches = self._reader.read(
            caller(context).tenant,
            request.dataset_version,
            request.split,
            cursor=request.cursor,
            batch_size=request.batch_size,
        )
        for batch in batches:
            samples = [_sample_to_proto(sample, sha256) for sample, sha256 in batch.samples]
            yield pb.ReadSamplesResponse(samples=samples, cursor=batch.cursor)


def _field_from_proto(field: pb.FieldSchema) -> Field:
    # An unset or unknown type is rejected later, by check_schema.
    known = pb.FieldType.values()
    name = pb.FieldType.Name(field.type) if field.type in known else str(field.type)
    return Field(field.name, name.removeprefix(_TYPE_PREFIX).lower(), field.repeated, tuple(field.labels))


def _field_to_proto(field: Field) -> pb.FieldSchema:
    kind = _TYPE_PREFIX + field.type.upper()
    return pb.FieldSchema(name=field.name, type=kind, repeated=field.repeated, labels=field.labels)


def _upload_to_proto(upload: Upload) -> pb.Upload:
    return pb.Upload(
        name=upload.name,
        dataset=upload.dataset,
        schema=pb.Schema(fields=map(_field_to_proto, upload.fields)) if upload.fields else None,
        num_samples=upload.num_samples,
        num_quarantined=upload.num_quarantined,
        state=_STATES[upload.state],
        create_time=timestamp(upload.create_us),
        update_time=timestamp(upload.update_us),
    )


def _sample_from_proto(sample: pb.Sample) -> Received:
    fields = [(field.field, [_value_from_proto(value) for value in field.values]) for field in sample.fields]
    split = sample.split or DEFAULT_SPLIT
    received = ReceivedSample(sample.key, split, fields, sample.sha256, sample.place)
    if not sample.HasField("rejection"):
        return received
    stated = sample.rejection
    return Rejected(
        sample.key, sample.place, stated.reason, stated.message, stated.field, split, received.joined_values()
    )


def _rejected_to_proto(found: Rejected) -> pb.Sample:
    fields = [pb.FieldValue(field=name, values=map(_value_to_proto, items)) for name, items in found.values.items()]
    rejection = pb.Rejection(reason=found.reason, message=found.message, field=found.field, position=found.position)
    return pb.Sample(key=found.key, split=found.split, fields=fields, rejection=rejection, place=found.place)


def _value_from_proto(value: pb.Value) -> bytes | str | int | float | None:
    kind = value.WhichOneof("kind")
    return None if kind is None else getattr(value, kind)


def _sample_to_proto(sample: Sample, sha256: str) -> pb.Sample:
    fields = [
        pb.FieldValue(
            field=name, values=[_value_to_proto(one) for one in (value if isinstance(value, list) else [value])]
        )
        for name, value in sample.values.items()
    ]
    return pb.Sample(key=sample.key, split=sample.split, fields=fields, sha256=sha256)


def _value_to_proto(value: Any) -> pb.Value:
    match value:
        case bytes():
            return pb.Value(data=value)
        case str():
            return pb.Value(text=value)
        case int():
            return pb.Value(integer=value)
        case None:
            return pb.Value()
        case _:
            return pb.Value(number=value)
