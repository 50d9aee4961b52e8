"""A mesh of real processes that has one of everything, and a whole request for every method that takes something."""

import base64
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from google.protobuf import json_format, message_factory
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from common.artifacts.proto import to_proto
from common.contracts import find_service
from common.errors import Cancelled
from deepseek.client import Mesh
from deepseek.client.runs import parse_spec
from deepseek.data.manifest import MEDIA_TYPE as DATASET_MEDIA_TYPE
from deepseek.embedded import GRPC_NAMES, PORTS, start_mesh
from protos.artifact.v1 import artifact_pb2
from protos.audit.v1 import audit_pb2
from protos.inference.v2 import inference_pb2
from protos.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from protos.job.v1 import job_pb2, job_pb2_grpc
from protos.registry.v1 import registry_pb2, registry_pb2_grpc
from protos.trainer.v1 import trainer_pb2
from protos.upkeep.v1 import upkeep_pb2, upkeep_pb2_grpc
from protos.watermark.v1 import watermark_pb2, watermark_pb2_grpc
from tests.e2e.test_access import publish
from tests.services.trainer.tasks import PICTURE_FIELDS, picture_spec, pictures
from tests.services.watermark.pictures import PNG

_JOBS = "deepseek.job.v1.JobService"
_EVERYWHERE = (
    "deepseek.audit.v1.AuditService",
    "deepseek.upkeep.v1.UpkeepService",
    "grpc.health.v1.Health",
    "grpc.reflection.v1alpha.ServerReflection",
)
HOSTED = {
    "registry": (GRPC_NAMES["registry"], *_EVERYWHERE),
    "ingest": (GRPC_NAMES["ingest"], _JOBS, "deepseek.artifact.v1.ArtifactService", *_EVERYWHERE),
    "trainer": (GRPC_NAMES["trainer"], _JOBS, *_EVERYWHERE),
    "watermark": (GRPC_NAMES["watermark"], *_EVERYWHERE),
    "inference": (GRPC_NAMES["inference"], *_EVERYWHERE),
}
"""The gRPC services of each service; a test compares them with what servers list."""

CONTRACTS = (
    artifact_pb2,
    audit_pb2,
    health_pb2,
    inference_pb2,
    ingest_pb2,
    job_pb2,
    reflection_pb2,
    registry_pb2,
    trainer_pb2,
    upkeep_pb2,
    watermark_pb2,
)
"""Whose descriptors are looked up by name."""

WORDS = ("x", "y", "FP32", "BYTES", "UINT8", "version", "latest", "prod", "train", "test", "picture", "said", "adamw")
"""Words besides names that mean something to a server."""

_SCHEMA = {
    "fields": [
        {"name": "picture", "type": "FIELD_TYPE_IMAGE"},
        {"name": "sounds", "type": "FIELD_TYPE_AUDIO", "repeated": True},
        {"name": "said", "type": "FIELD_TYPE_LABEL", "labels": ["no", "yes"]},
        {"name": "n", "type": "FIELD_TYPE_INTEGER"},
        {"name": "x", "type": "FIELD_TYPE_NUMBER"},
    ]
}


@dataclass(frozen=True)
class Method:
    """A method as a service of the mesh offers it; its text names a test.

    Attributes:
        service: The mesh's service that hosts it, e.g. `ingest`.
        descriptor: What the contract says.
    """

    service: str
    descriptor: MethodDescriptor

    def __str__(self) -> str:
        return f"{self.service}-{self.descriptor.name}"

    @property
    def request(self) -> type[Message]:
        """Class of its request."""
        return message_factory.GetMessageClass(self.descriptor.input_type)


@dataclass(frozen=True, repr=False)
class Site:
    """A mesh, and what makes sense in it.

    Attributes:
        home: Where it lives.
        channels: A plain channel to each service.
        requests: The fields of whole requests as JSON has them, by service and method.
        known: What a text may say that means something.
    """

    home: Path
    channels: Mapping[str, grpc.Channel]
    requests: Mapping[tuple[str, str], Mapping[str, Any]]
    known: Sequence[str]

    def valid(self, method: Method, num_requests: int = 1) -> list[Message]:
        """Whole requests; those that fill or close an upload get one of their own."""
        fields = self.requests.get((method.service, method.descriptor.name), {})
        requests = [json_format.ParseDict(dict(fields), method.request()) for _ in range(num_requests)]
        if method.descriptor.name == "UploadSamples":
            requests[0].upload = self._new_upload()  # the others leave it empty
            for number, request in enumerate(requests):
                request.samples[0].key = str(number)
        if method.descriptor.name == "MarkTokens":
            for request in requests[1:]:
                json_format.ParseDict({"logits": {"values": [0, 1, 2], "tokens": [3, 5, 7]}}, request)
        if method.descriptor.name in ("CommitUpload", "DeleteUpload"):
            requests[0].name = self._new_upload()
        return requests

    def _new_upload(self) -> str:
        stub = ingest_pb2_grpc.IngestServiceStub(self.channels["ingest"])
        create = json_format.ParseDict(dict(self.requests["ingest", "CreateUpload"]), ingest_pb2.CreateUploadRequest())
        name: str = stub.CreateUpload(create).upload.name
        return name

    def call(self, method: Method, requests: Sequence[bytes]) -> None:
        """Calls a method and takes what it answers, but no more than the first few of many.

        Raises:
            grpc.RpcError: As the server refuses it.
        """
        path = f"/{method.descriptor.containing_service.full_name}/{method.descriptor.name}"
        channel = self.channels[method.service]
        if method.descriptor.client_streaming and method.descriptor.server_streaming:
            for _ in channel.stream_stream(path)(iter(requests), timeout=60):
                pass
        elif method.descriptor.client_streaming:
            channel.stream_unary(path)(iter(requests), timeout=60)
        elif method.descriptor.server_streaming:
            answers = channel.unary_stream(path)(requests[0], timeout=60)
            # A watch of somebody's health goes on after its first answer for as long as nothing happens to them.
            for _ in zip(range(1 if "Health" in path else 3), answers, strict=False):
                pass
            answers.cancel()
        else:
            channel.unary_unary(path)(requests[0], timeout=60)

    def logged_bugs(self) -> list[str]:
        """What services logged that nobody foresaw."""
        logs = {name: self.home / "logs" / f"{name}.log" for name in PORTS}
        return [
            f"{name}: {line}"
            for name, path in logs.items()
            for line in path.read_text(encoding="utf-8").splitlines()
            if "Traceback" in line
        ]


def methods() -> list[Method]:
    """Every method of every service."""
    return [
        Method(name, method) for name in PORTS for service in HOSTED[name] for method in find_service(service).methods
    ]


@contextmanager
def open_site(home: Path) -> Iterator[Site]:
    """Runs a mesh and makes one of everything."""
    running = start_mesh(home, stay=False, free_ports=True)
    channels = {name: grpc.insecure_channel(running.file.services[name].address) for name in PORTS}
    try:
        with running.connect() as mesh:
            requests, names = _furnish(mesh)
        yield Site(home, channels, requests, (*names, *WORDS))
    finally:
        for channel in channels.values():
            channel.close()
        running.stop()


def _furnish(mesh: Mesh) -> tuple[dict[tuple[str, str], dict[str, Any]], list[str]]:
    data = mesh.datasets.upload("d", PICTURE_FIELDS, pictures(8, 4)).name
    create_upload = {"dataset": "datasets/d", "schema": _SCHEMA}
    ingest = ingest_pb2_grpc.IngestServiceStub(mesh.channel("ingest"))
    upload = ingest.CreateUpload(json_format.ParseDict(create_upload, ingest_pb2.CreateUploadRequest())).upload.name

    registry = registry_pb2_grpc.RegistryServiceStub(mesh.channel("registry"))
    manifest = to_proto(publish(mesh, data))
    request = registry_pb2.CreateModelVersionRequest(parent="models/m", manifest=manifest, sources=[data])
    model = registry.CreateModelVersion(request).model_version.name
    alias = "models/m/aliases/prod"
    registry.SetAlias(registry_pb2.SetAliasRequest(name=alias, version=model))
    mesh.inference.load("m")

    spec = picture_spec(data, epochs=1, num_workers=1)
    run = mesh.runs.submit(spec)[0].name
    mesh.runs.stop(run)
    with suppress(Cancelled):
        mesh.runs.wait(run)
    jobs = {
        name: job_pb2_grpc.JobServiceStub(mesh.channel(name)).ListJobs(job_pb2.ListJobsRequest()).jobs[0].name
        for name in ("ingest", "trainer")
    }

    watermarks = watermark_pb2_grpc.WatermarkServiceStub(mesh.channel("watermark"))
    mark = watermarks.MarkImage(watermark_pb2.MarkImageRequest(image=PNG, model_version=model)).watermark
    given = registry.GetWatermark(registry_pb2.GetWatermarkRequest(name=mark)).watermark
    watermarks.RotateKey(watermark_pb2.RotateKeyRequest(modality=watermark_pb2.MODALITY_TEXT))

    artifact = json_format.MessageToDict(manifest, preserving_proto_field_name=True)
    tensor = {"name": "x", "datatype": "FP32", "shape": [2, 3]}
    image = {"image": base64.b64encode(PNG).decode()}
    text = {"tokens": [7, 1, 4, 1, 4, 2, 1, 3, 5, 6], "scheme": "TEXT_SCHEME_KGW"}
    requests: dict[str, dict[str, dict[str, Any]]] = {
        "registry": {
            "CreateDataset": {"dataset_id": "e", "description": "some"},
            "GetDataset": {"name": "datasets/d"},
            "ListDatasets": {"page_size": 1},
            "CreateDatasetVersion": {
                "parent": "datasets/e",
                "manifest": artifact | {"media_type": DATASET_MEDIA_TYPE},
                "num_samples": 1,
            },
            "GetDatasetVersion": {"name": data},
            "ListDatasetVersions": {"parent": "datasets/d", "page_size": 1},
            "CreateModel": {"model_id": "n", "description": "some"},
            "GetModel": {"name": "models/m"},
            "ListModels": {"page_size": 1},
            "CreateModelVersion": {
                "parent": "models/m",
                "manifest": artifact,
                "sources": [data, run],
                "metrics": [{"name": "test/accuracy", "value": 0.5}],
            },
            "GetModelVersion": {"name": alias},
            "ListModelVersions": {"parent": "models/m", "page_size": 1},
            "SetAlias": {"name": alias, "version": model, "expected_version": model},
            "GetAlias": {"name": alias},
            "ListAliases": {"parent": "models/m", "page_size": 1},
            "ListAliasHistory": {"name": alias, "page_size": 1},
            "GetLineage": {"name": model, "depth": 2},
            "CreateWatermark": {"modality": "MODALITY_TEXT", "model_version": model, "key_epoch": 1},
            "SetWatermarkContent": {
                "name": mark,
                "content_sha256": given.content_sha256,
                "content_size_bytes": given.content_size_bytes,
            },
            "GetWatermark": {"name": mark},
            "ListWatermarks": {"page_size": 1, "model_version": model, "content_sha256": given.content_sha256},
        },
        "ingest": {
            "CreateUpload": create_upload,
            "GetUpload": {"name": upload},
            "UploadSamples": {"samples": [_sample()]},
            "ReadSamples": {"dataset_version": data, "split": "test", "batch_size": 2},
            "ReadArtifact": {"sha256": manifest.sha256, "offset": 1},
        },
        "trainer": {
            "SubmitRun": {
                "spec": json_format.MessageToDict(parse_spec(spec), preserving_proto_field_name=True),
                "reuse": True,
            },
            "GetRun": {"name": run},
            "WatchRun": {"name": run, "after_sequence": 1},
            "StopRun": {"name": run},
            "ListRuns": {"page_size": 1},
            "ExportModel": {"run": run, "model": "models/o", "int8": True, "int8_max_loss": 0.1},
        },
        "watermark": {
            "MarkImage": image | {"model_version": model, "min_psnr_db": 40, "encoding_quality": 90},
            "MarkImages": {"request": image},
            "DetectImage": image | {"aligned_only": True, "locate": True},
            "DetectImages": {"request": image | {"aligned_only": True}},
            "MarkTokens": {"config": {"scheme": "TEXT_SCHEME_SYNTHID", "model_version": model}},
            "DetectText": text | {"model_version": model},
            "DetectTexts": {"request": text | {"whole_only": True}},
            "ListKeys": {"modality": "MODALITY_IMAGE", "page_size": 1},
            "RotateKey": {"modality": "MODALITY_TEXT"},
            "RevokeKey": {"modality": "MODALITY_TEXT", "epoch": 0},
        },
        "inference": {
            "ModelReady": {"name": "m", "version": "1"},
            "ModelMetadata": {"name": "m", "version": "1"},
            "ModelInfer": {
                "model_name": "m",
                "id": "1",
                "inputs": [tensor],
                "outputs": [{"name": "y"}],
                "raw_input_contents": [base64.b64encode(bytes(24)).decode()],
            },
            "RepositoryIndex": {"ready": True},
            "RepositoryModelLoad": {"model_name": "m", "parameters": {"version": {"string_param": "1"}}},
            "RepositoryModelUnload": {"model_name": "n"},
        },
    }
    for name, job in jobs.items():
        requests[name] |= {method: {"name": job} for method in ("GetJob", "CancelJob", "WatchJob")}
        requests[name]["ListJobs"] = {"page_size": 1, "kind": "trainer.run", "state": "JOB_STATE_CANCELLED"}
    for name in PORTS:
        upkeep = upkeep_pb2_grpc.UpkeepServiceStub(mesh.channel(name))
        state = b"".join(answer.data for answer in upkeep.ExportState(upkeep_pb2.ExportStateRequest()))
        requests[name]["ImportState"] = {"data": base64.b64encode(state).decode()}
        collection = {"parent": "tenants/lab", "digests": [manifest.sha256], "num_bytes": 7}
        begun = upkeep.BeginCollection(upkeep_pb2.BeginCollectionRequest(**collection)).name
        requests[name] |= {"BeginCollection": collection, "EndCollection": collection | {"parent": begun}}
        requests[name]["ServerReflectionInfo"] = {"file_containing_symbol": GRPC_NAMES[name]}
        requests[name] |= {method: {"service": GRPC_NAMES[name]} for method in ("Check", "Watch")}
    flat = {(name, method): fields for name, by_method in requests.items() for method, fields in by_method.items()}
    return flat, ["datasets/d", data, "models/m", model, alias, "m", mark, upload, run, *jobs.values()]


def _sample() -> dict[str, Any]:
    picture = base64.b64encode(pictures(1, 0)[0].values["picture"]).decode()
    values = {"picture": {"data": picture}, "said": {"text": "yes"}, "n": {"integer": 1}, "x": {"number": 0.5}}
    fields = [{"field": name, "values": [value]} for name, value in values.items()]
    return {"key": "k", "fields": [*fields, {"field": "sounds"}]}
