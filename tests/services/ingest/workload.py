"""Ingest's part of the fault trials."""

import threading
import time
from collections.abc import Callable, Sequence
from functools import partial

from common.errors import (
    Aborted,
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    InvalidArgument,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from protos.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from protos.job.v1 import job_pb2
from protos.registry.v1 import registry_pb2, registry_pb2_grpc
from tests.faults.workload import BASE, CALL_S, Workload, WritingClient, answer, read_blob, request_id, succeeds
from tests.harness.mesh import MeshProcesses
from tests.services.ingest.client import NUMBERS, messages, number

SAMPLES = [number(i) for i in range(240)]
SAMPLES_PER_STREAM = 60


class Uploader(WritingClient):
    """Uploads the same samples as one data set after another."""

    def __init__(self, mesh: MeshProcesses, trial: str, enough: threading.Event, manifest: str = "") -> None:
        super().__init__(mesh, trial, enough)
        self._stub = ingest_pb2_grpc.IngestServiceStub(self.mesh.channel("ingest"))
        self._registry = registry_pb2_grpc.RegistryServiceStub(self.mesh.channel("registry"))
        self._manifest = manifest
        self._datasets: list[str] = []

    def work(self) -> None:
        for i in self.rounds():
            self.upload(f"{self.trial}-d{i}")

    def upload(self, dataset: str) -> None:
        """Makes a data set of one version."""
        create = ingest_pb2.CreateUploadRequest(dataset=f"datasets/{dataset}", schema=NUMBERS, request_id=request_id())
        name = answer(self._stub.CreateUpload, create).upload.name
        self.acknowledged()
        durable = 0
        while durable < len(SAMPLES):
            durable = self._send(name, durable)
        while not succeeds(self, "ingest", self._commit(name)):
            pass  # nothing was published, and the upload is open again
        self._datasets.append(dataset)

    def _send(self, upload: str, acknowledged: int) -> int:
        """Sends more samples; returns how many are durable."""
        end = min(acknowledged + SAMPLES_PER_STREAM, len(SAMPLES))
        requests = messages(upload, SAMPLES[acknowledged:end], offset=acknowledged, sizes=(7,))
        try:
            durable = int(self._stub.UploadSamples(requests, timeout=CALL_S).upload.num_samples)
            if durable != end:
                self.findings.lost_writes.append(f"{durable} of {end} samples of {upload} after the stream's OK")
        except (Unavailable, DeadlineExceeded, Cancelled, ResourceExhausted, Aborted, InvalidArgument) as error:
            if isinstance(error, InvalidArgument) and error.reason != "OFFSET_MISMATCH":
                raise
            time.sleep(0.1)
            look = ingest_pb2.GetUploadRequest(name=upload)
            durable = int(answer(self._stub.GetUpload, look).upload.num_samples)
        if durable < acknowledged:
            self.findings.lost_writes.append(f"{durable} of {acknowledged} samples of {upload}")
        self.acknowledged()
        return durable

    def _commit(self, upload: str) -> job_pb2.Job:
        request = ingest_pb2.CommitUploadRequest(name=upload, request_id=request_id())
        job: job_pb2.Job = answer(self._stub.CommitUpload, request).job
        self.acknowledged()
        return job

    def check(self) -> None:
        for dataset in self._datasets:
            request = registry_pb2.ListDatasetVersionsRequest(parent=f"datasets/{dataset}")
            try:
                versions = self._registry.ListDatasetVersions(request).dataset_versions
            except NotFound:
                versions = []
            if not versions:
                self.findings.lost_writes.append(f"the version of datasets/{dataset} is gone")
                continue
            if len(versions) > 1:
                self.findings.double_writers.append(f"datasets/{dataset} was committed {len(versions)} times")
            if versions[0].manifest.sha256 != self._manifest:
                self.findings.unfinished_jobs.append(f"datasets/{dataset} is not what an undisturbed upload makes")
            read_numbers(self, versions[0].name)


def read_numbers(client: WritingClient, version: str) -> None:
    """Reads a data set of `SAMPLES` back."""
    stub = ingest_pb2_grpc.IngestServiceStub(client.mesh.channel("ingest"))
    request = ingest_pb2.ReadSamplesRequest(dataset_version=version, split="train")
    try:
        keys = [sample.key for part in stub.ReadSamples(request, timeout=CALL_S) for sample in part.samples]
    except NotFound:
        client.findings.lost_writes.append(f"{version} is gone")
    except DataLoss as error:
        client.findings.torn_reads.append(error.message)
    else:
        client.findings.num_reads += 1
        if keys != [sample.key for sample in SAMPLES]:
            client.findings.torn_reads.append(f"{version} has {len(keys)} samples, not those that were sent")


class IngestWorkload(Workload):
    """Uploads, commits and reads."""

    def __init__(self, mesh: MeshProcesses) -> None:
        uploader = Uploader(mesh, BASE, threading.Event())
        uploader.upload(BASE)
        self._version = uploader.mesh.datasets.version(f"datasets/{BASE}/versions/1")
        uploader.close()

    def clients(self, mesh: MeshProcesses, trial: str, enough: threading.Event) -> list[WritingClient]:
        return [Uploader(mesh, trial, enough, self._version.manifest.sha256)]

    def reads(self) -> Sequence[Callable[[WritingClient], None]]:
        return (
            partial(read_numbers, version=self._version.name),
            partial(read_blob, sha256=self._version.manifest.sha256),
        )


WORKLOAD = IngestWorkload
