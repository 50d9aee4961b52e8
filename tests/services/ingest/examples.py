"""Valid requests of ingest."""

import base64
from typing import Any

from google.protobuf import json_format

from common.upkeep.dump import Reference
from deepseek.data.manifest import MEDIA_TYPE
from deepseek.data.shards import SHARD_MEDIA_TYPE
from protos.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from protos.job.v1 import job_pb2, job_pb2_grpc
from tests.harness.examples import Example, Examples, Existing, Fields
from tests.services.trainer.tasks import PICTURE_FIELDS, pictures

SCHEMA = {
    "fields": [
        {"name": "picture", "type": "FIELD_TYPE_IMAGE"},
        {"name": "sounds", "type": "FIELD_TYPE_AUDIO", "repeated": True},
        {"name": "said", "type": "FIELD_TYPE_LABEL", "labels": ["no", "yes"]},
        {"name": "n", "type": "FIELD_TYPE_INTEGER"},
        {"name": "x", "type": "FIELD_TYPE_NUMBER"},
    ]
}


def sample(key: str) -> dict[str, Any]:
    """A sample of the schema, as JSON has it."""
    picture = base64.b64encode(pictures(1, 0)[0].values["picture"]).decode()
    values = {"picture": {"data": picture}, "said": {"text": "yes"}, "n": {"integer": 1}, "x": {"number": 0.5}}
    fields = [{"field": name, "values": [value]} for name, value in values.items()]
    return {"key": key, "fields": [*fields, {"field": "sounds"}]}


def new_upload(existing: Existing) -> str:
    """Creates an upload."""
    create = json_format.ParseDict(_create_upload(existing), ingest_pb2.CreateUploadRequest())
    return str(ingest_pb2_grpc.IngestServiceStub(existing.mesh.channel("ingest")).CreateUpload(create).upload.name)


def first_job(existing: Existing) -> str:
    """The newest commit of an upload."""
    assert existing["dataset_version"]
    stub = job_pb2_grpc.JobServiceStub(existing.mesh.channel("ingest"))
    return str(stub.ListJobs(job_pb2.ListJobsRequest()).jobs[0].name)


def requests(existing: Existing) -> dict[str, Example]:
    """An example for each method."""

    def samples(num_requests: int) -> list[Fields]:
        first, *others = [{"samples": [sample(str(number))]} for number in range(num_requests)]
        return [{"upload": new_upload(existing), **first}, *others]

    def used_up(num_requests: int) -> list[Fields]:
        return [{"name": new_upload(existing)} for _ in range(num_requests)]

    return {
        "CreateUpload": _create_upload(existing),
        "GetUpload": {"name": existing["upload"]},
        "ListUploads": {},
        "UploadSamples": samples,
        "CommitUpload": used_up,
        "DeleteUpload": used_up,
        "ReadQuarantine": {"parent": existing["dataset_version"]},
        "ReadSamples": {"dataset_version": existing["dataset_version"], "split": "test", "batch_size": 2},
    }


def _create_upload(existing: Existing) -> dict[str, Any]:
    return {"dataset": existing["dataset"], "schema": SCHEMA}


EXAMPLES = Examples(
    requests=requests,
    makers={
        "dataset_version": lambda existing: existing.mesh.datasets.upload("d", PICTURE_FIELDS, pictures(8, 4)).name,
        "upload": new_upload,
        "ingest_job": first_job,
    },
    refused={"CommitUpload": "EMPTY_UPLOAD"},
    lists=frozenset({"ListUploads"}),
    names_nothing={"CreateUpload": "makes something of the caller's own"},
    words=("train", "test", "picture", "said"),
    references=frozenset(
        {
            Reference("default", "a" + 63 * "0", MEDIA_TYPE),
            Reference("default", "dddd", SHARD_MEDIA_TYPE),
        }
    ),
)
