"""Ingest over gRPC: protobuf to the domain and back, and nothing else."""

from collections.abc import Iterator
from typing import Any

import grpc

from common.errors import Cancelled, InvalidArgument
from common.jobs.proto import job_to_proto
from common.server import caller
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample
from deepseek.data.shards import DEFAULT_SPLIT
from protos.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from services.ingest.reader import Reader
from services.ingest.samples import ENVELOPE_BYTES, ReceivedSample
from services.ingest.uploads import Upload, Uploads, UploadState

_STATES = {
    UploadState.OPEN: ingest_pb2.UPLOAD_STATE_OPEN,
    UploadState.COMMITTED: ingest_pb2.UPLOAD_STATE_COMMITTED,
    UploadState.DELETED: ingest_pb2.UPLOAD_STATE_DELETED,
}
_TYPE_PREFIX = "FIELD_TYPE_"

MAX_SCHEMA_BYTES = 16 << 20
"""Largest encoded schema. It becomes part of a manifest, which has at most 64 MiB."""


class IngestServicer(ingest_pb2_grpc.IngestServiceServicer):
    """Implements `deepseek.ingest.v1.IngestService`.

    Args:
        uploads: Where samples go in.
        reader: Where they come out.
        max_message_bytes: Largest message of the server.
    """

    def __init__(self, uploads: Uploads, reader: Reader, *, max_message_bytes: int) -> None:
        self._uploads = uploads
        self._reader = reader
        self._max_schema_bytes = min(MAX_SCHEMA_BYTES, max_message_bytes - ENVELOPE_BYTES)

    def CreateUpload(
        self, request: ingest_pb2.CreateUploadRequest, context: grpc.ServicerContext
    ) -> ingest_pb2.CreateUploadResponse:
        if (num_bytes := request.schema.ByteSize()) > self._max_schema_bytes:
            message = (
                f"the schema has {num_bytes} bytes; at most {self._max_schema_bytes} are accepted. Shorten its labels"
            )
            raise InvalidArgument("TOO_LARGE", message, field="schema")
        upload = self._uploads.create(
            caller(context).tenant,
            request.dataset,
            [_field_from_proto(field) for field in request.schema.fields],
            request_id=request.request_id,
            body=request.SerializeToString(deterministic=True),
        )
        return ingest_pb2.CreateUploadResponse(upload=_upload_to_proto(upload))

    def GetUpload(
        self, request: ingest_pb2.GetUploadRequest, context: grpc.ServicerContext
    ) -> ingest_pb2.GetUploadResponse:
        upload = self._uploads.get(caller(context).tenant, request.name)
        return ingest_pb2.GetUploadResponse(upload=_upload_to_proto(upload))

    def ListUploads(
        self, request: ingest_pb2.ListUploadsRequest, context: grpc.ServicerContext
    ) -> ingest_pb2.ListUploadsResponse:
        uploads, token = self._uploads.list(caller(context).tenant, size=request.page_size, token=request.page_token)
        return ingest_pb2.ListUploadsResponse(uploads=map(_upload_to_proto, uploads), next_page_token=token)

    def UploadSamples(
        self, request_iterator: Iterator[ingest_pb2.UploadSamplesRequest], context: grpc.ServicerContext
    ) -> ingest_pb2.UploadSamplesResponse:
        tenant, requests = caller(context).tenant, _received(request_iterator)
        first = next(requests, None)
        if first is None:
            raise InvalidArgument("MISSING_FIELD", "the stream needs a first message with the upload", field="upload")
        with self._uploads.write(tenant, first.upload, offset=first.offset) as writer:
            for sample in first.samples:
                writer.add(_sample_from_proto(sample))
            position = first.offset + len(first.samples)
            for request in requests:
                if request.upload:
                    raise InvalidArgument("BAD_VALUE", "upload belongs into the first message only", field="upload")
                if request.offset not in (0, position):
                    message = (
                        f"a message with offset {request.offset} came where {position} was due, so one was lost on its "
                        "way; what came before is kept: ask GetUpload and go on from there"
                    )
                    raise InvalidArgument("OFFSET_MISMATCH", message, field="offset")
                for sample in request.samples:
                    writer.add(_sample_from_proto(sample))
                position += len(request.samples)
        return ingest_pb2.UploadSamplesResponse(upload=_upload_to_proto(self._uploads.get(tenant, first.upload)))

    def CommitUpload(
        self, request: ingest_pb2.CommitUploadRequest, context: grpc.ServicerContext
    ) -> ingest_pb2.CommitUploadResponse:
        job = self._uploads.commit(
            caller(context).tenant,
            request.name,
            request_id=request.request_id,
            body=request.SerializeToString(deterministic=True),
        )
        return ingest_pb2.CommitUploadResponse(job=job_to_proto(job))

    def DeleteUpload(
        self, request: ingest_pb2.DeleteUploadRequest, context: grpc.ServicerContext
    ) -> ingest_pb2.DeleteUploadResponse:
        self._uploads.delete(caller(context).tenant, request.name)
        return ingest_pb2.DeleteUploadResponse()

    def ReadSamples(
        self, request: ingest_pb2.ReadSamplesRequest, context: grpc.ServicerContext
    ) -> Iterator[ingest_pb2.ReadSamplesResponse]:
        batches = self._reader.read(
            caller(context).tenant,
            request.dataset_version,
            request.split,
            cursor=request.cursor,
            batch_size=request.batch_size,
        )
        for batch in batches:
            samples = [_sample_to_proto(sample, sha256) for sample, sha256 in batch.samples]
            yield ingest_pb2.ReadSamplesResponse(samples=samples, cursor=batch.cursor)


def _received(
    request_iterator: Iterator[ingest_pb2.UploadSamplesRequest],
) -> Iterator[ingest_pb2.UploadSamplesRequest]:
    try:
        yield from request_iterator
    except grpc.RpcError as error:
        raise Cancelled("STREAM_BROKEN", "the client went away or its deadline passed", field="upload") from error


def _field_from_proto(field: ingest_pb2.FieldSchema) -> Field:
    # An unset or unknown type stays one that check_schema refuses.
    known = ingest_pb2.FieldType.values()
    name = ingest_pb2.FieldType.Name(field.type) if field.type in known else str(field.type)
    return Field(field.name, name.removeprefix(_TYPE_PREFIX).lower(), field.repeated, tuple(field.labels))


def _field_to_proto(field: Field) -> ingest_pb2.FieldSchema:
    kind = _TYPE_PREFIX + field.type.upper()
    return ingest_pb2.FieldSchema(name=field.name, type=kind, repeated=field.repeated, labels=field.labels)


def _upload_to_proto(upload: Upload) -> ingest_pb2.Upload:
    message = ingest_pb2.Upload(
        name=upload.name,
        dataset=upload.dataset,
        schema=ingest_pb2.Schema(fields=map(_field_to_proto, upload.fields)) if upload.fields else None,
        num_samples=upload.num_samples,
        state=_STATES[upload.state],
    )
    message.create_time.FromMicroseconds(upload.create_us)
    message.update_time.FromMicroseconds(upload.update_us)
    return message


def _sample_from_proto(sample: ingest_pb2.Sample) -> ReceivedSample:
    fields = [(field.field, [_value_from_proto(value) for value in field.values]) for field in sample.fields]
    return ReceivedSample(sample.key, sample.split or DEFAULT_SPLIT, fields, sample.sha256)


def _value_from_proto(value: ingest_pb2.Value) -> bytes | str | int | float | None:
    kind = value.WhichOneof("kind")
    return None if kind is None else getattr(value, kind)


def _sample_to_proto(sample: Sample, sha256: str) -> ingest_pb2.Sample:
    fields = [
        ingest_pb2.FieldValue(
            field=name, values=[_value_to_proto(one) for one in (value if isinstance(value, list) else [value])]
        )
        for name, value in sample.values.items()
    ]
    return ingest_pb2.Sample(key=sample.key, split=sample.split, fields=fields, sha256=sha256)


def _value_to_proto(value: Any) -> ingest_pb2.Value:
    match value:
        case bytes():
            return ingest_pb2.Value(data=value)
        case str():
            return ingest_pb2.Value(text=value)
        case int():
            return ingest_pb2.Value(integer=value)
        case _:
            return ingest_pb2.Value(number=value)
