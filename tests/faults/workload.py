"""Clients that write while something breaks, remember what was acknowledged, and look for it afterwards.

They are clients as a careful team writes them: every creating call has a request id and is repeated until it is
answered, an upload goes on from what is durable, and a job that failed because something was away or full is started
again. They work until they are told that it is enough, or, if they wait for a job, until that has ended.
"""

import hashlib
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from google.protobuf import json_format
from google.protobuf.message import Message

from common.errors import (
    Aborted,
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    MeshError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from deepseek.client import jobs
from deepseek.client.mesh import Mesh
from protos.inference.v2 import inference_pb2, inference_pb2_grpc
from protos.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from protos.job.v1 import job_pb2, job_pb2_grpc
from protos.registry.v1 import registry_pb2, registry_pb2_grpc
from protos.trainer.v1 import trainer_pb2, trainer_pb2_grpc
from protos.watermark.v1 import watermark_pb2, watermark_pb2_grpc
from tests.faults.findings import Findings
from tests.faults.mesh import BrokenMesh
from tests.services.inference.models import Publisher, scale_model
from tests.services.ingest.client import NUMBERS, messages, number
from tests.services.trainer.tasks import PICTURE_FIELDS, picture_spec, pictures
from tests.services.watermark.pictures import PNG

T = TypeVar("T")

CALL_S = 8.0
PATIENCE_S = 120.0
PAUSE_S = 1.0
SAMPLES = [number(i) for i in range(240)]
SAMPLES_A_STREAM = 60
FACTORS = {"1": 2.0, "2": 3.0}
"""What the versions of the model `scale` multiply with."""

_DISK = ("STORE_FULL", "DATABASE_FULL", "DISK_FULL")
_PASSING = (*_DISK, "STORE_UNREACHABLE", "DATABASE_UNREACHABLE", "DATABASE_BUSY", "DISK_UNAVAILABLE")
"""Why a job may fail that makes no difference to whoever starts it again."""

_BASE = "base"
_FINAL = (job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED)


@dataclass(frozen=True)
class Undisturbed:
    """What comes out when nothing happens.

    Attributes:
        spec: The training run of all trials.
        run: Name of one that has succeeded.
        checkpoint: Digest of its weights.
        metrics: Its figures.
        model_files: Digests of its export's files; its manifest also tells how fast it was, which differs.
        dataset_manifest: Digest of a data set of `SAMPLES`.
    """

    spec: trainer_pb2.RunSpec
    run: str
    checkpoint: str
    metrics: dict[str, float]
    model_files: tuple[str, ...]
    dataset_manifest: str

    @classmethod
    def measure(cls, mesh: BrokenMesh) -> "Undisturbed":
        """Does everything once, and publishes the versions of `scale`."""
        with Mesh(mesh.file) as client:
            pictures_version = client.datasets.upload("pictures", PICTURE_FIELDS, pictures())
            spec = picture_spec(pictures_version.name, epochs=20, num_workers=1, checkpoint_interval_s=0.3)
            message = json_format.ParseDict(spec, trainer_pb2.RunSpec())
            run = client.runs.wait(client.runs.submit(message, reuse=False)[0].name)
            manifest = client.models.manifest(client.runs.export(run.name, _BASE))
            files = tuple(file.sha256 for file in manifest.files)
            publisher = Publisher(mesh.store, registry_pb2_grpc.RegistryServiceStub(client.channel("registry")))
            for factor in FACTORS.values():
                publisher.publish("scale", scale_model(factor))
            uploader = Uploader(mesh, _BASE, threading.Event())
            uploader.upload(_BASE)
            dataset = client.datasets.version(f"datasets/{_BASE}/versions/1")
        metrics = {metric.name: metric.value for metric in run.metrics}
        return cls(message, run.name, run.checkpoint.sha256, metrics, files, dataset.manifest.sha256)


class Client(ABC):
    """One client with connections of its own; `work` runs in a thread, then `check` is called.

    Args:
        mesh: What it works with.
        trial: Id of the trial, a part of all names it makes.
        enough: Set when it may stop.
    """

    def __init__(self, mesh: BrokenMesh, trial: str, enough: threading.Event) -> None:
        self.mesh = Mesh(mesh.file)
        self.trial = trial
        self.findings = Findings()
        self._enough = enough

    @abstractmethod
    def work(self) -> None:
        """Writes until it is enough.

        Raises:
            MeshError: Something failed that repeating does not help.
        """

    @abstractmethod
    def check(self) -> None:
        """Looks for everything that was acknowledged."""

    def rounds(self) -> "Rounds":
        """Numbers 0, 1, 2, ... until it is enough; at least one."""
        return Rounds(self._enough)

    def acknowledged(self) -> None:
        """Counts a write."""
        self.findings.num_acknowledged += 1

    def close(self) -> None:
        """Ends its connections."""
        self.mesh.close()


class Rounds:
    """See `Client.rounds`."""

    def __init__(self, enough: threading.Event) -> None:
        self._enough = enough
        self._next = 0

    def __iter__(self) -> "Rounds":
        return self

    def __next__(self) -> int:
        if self._next and self._enough.wait(PAUSE_S):
            raise StopIteration
        self._next += 1
        return self._next - 1


def insist(call: Callable[..., T], *args: object, **options: float) -> T:
    """Repeats a call that carries a request id, or changes nothing, until it is answered.

    Raises:
        MeshError: The last failure, if repeating does not help or has not for two minutes.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return call(*args, **options)
        except (Unavailable, DeadlineExceeded, Cancelled) as error:
            last: MeshError = error
        except (ResourceExhausted, FailedPrecondition) as error:
            if error.reason not in _DISK:
                raise
            last = error
        if time.monotonic() > deadline:
            raise last
        time.sleep(0.1)


def answer(method: Callable[..., Any], request: Message) -> Any:
    """The response to a request, however often it has to be sent."""
    return insist(method, request, timeout=CALL_S)


def succeeds(client: Client, service: str, job: job_pb2.Job) -> bool:
    """Waits for the end of a job; False if it is to be started again.

    Raises:
        MeshError: It failed for good.
    """
    channel = client.mesh.channel(service)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            jobs.wait(channel, job)
            return True
        except MeshError as error:
            # Either the job has failed, or we could not learn how it stands.
            request = job_pb2.GetJobRequest(name=job.name)
            state = answer(job_pb2_grpc.JobServiceStub(channel).GetJob, request).job
            if state.state == job_pb2.JOB_STATE_FAILED and state.error.reason in _PASSING:
                return False
            if state.state in _FINAL or time.monotonic() > deadline:
                raise error
            time.sleep(0.1)


def request_id() -> str:
    """A new one."""
    return uuid.uuid4().hex


class Registrar(Client):
    """Creates models and moves an alias to and fro."""

    def __init__(self, mesh: BrokenMesh, trial: str, enough: threading.Event) -> None:
        super().__init__(mesh, trial, enough)
        self._stub = registry_pb2_grpc.RegistryServiceStub(self.mesh.channel("registry"))
        self._alias = f"models/scale/aliases/{trial}"
        self._models: list[str] = []
        self._moves: list[tuple[str, str]] = []

    def work(self) -> None:
        at = ""
        for i in self.rounds():
            create = registry_pb2.CreateModelRequest(model_id=f"{self.trial}-m{i}", request_id=request_id())
            made = answer(self._stub.CreateModel, create)
            self._models.append(made.model.name)
            self.acknowledged()
            to = f"models/scale/versions/{1 + i % 2}"
            move = registry_pb2.SetAliasRequest(
                name=self._alias, version=to, expected_version=at, request_id=request_id()
            )
            answer(self._stub.SetAlias, move)
            self._moves.append((at, to))
            self.acknowledged()
            at = to

    def check(self) -> None:
        for name in self._models:
            try:
                self._stub.GetModel(registry_pb2.GetModelRequest(name=name))
            except NotFound:
                self.findings.lost_writes.append(f"{name} is gone")
        request = registry_pb2.ListAliasHistoryRequest(name=self._alias, page_size=1000)
        found = [(m.from_version, m.to_version) for m in self._stub.ListAliasHistory(request).moves]
        if len(found) > len(self._moves):
            self.findings.double_writers.append(f"{self._alias} moved {len(found)} times, not {len(self._moves)}")
        elif found[::-1] != self._moves[-1000:]:
            self.findings.lost_writes.append(f"{self._alias} has {len(found)} of {len(self._moves)} moves")


class Uploader(Client):
    """Uploads the same samples as one data set after the other."""

    def __init__(self, mesh: BrokenMesh, trial: str, enough: threading.Event, manifest: str = "") -> None:
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
        """Sends some more samples; tells how many are durable."""
        end = min(acknowledged + SAMPLES_A_STREAM, len(SAMPLES))
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


class Reader(Client):
    """Reads what was there before the trial."""

    def __init__(self, mesh: BrokenMesh, trial: str, enough: threading.Event, blobs: Sequence[str]) -> None:
        super().__init__(mesh, trial, enough)
        self._blobs = blobs

    def work(self) -> None:
        for _ in self.rounds():
            insist(read_numbers, self, f"datasets/{_BASE}/versions/1")
            for sha256 in self._blobs:
                insist(read_blob, self, sha256)

    def check(self) -> None:
        for sha256 in self._blobs:
            read_blob(self, sha256)


class Loader(Client):
    """Loads two versions of a model in turn, and asks for answers."""

    def __init__(self, mesh: BrokenMesh, trial: str, enough: threading.Event) -> None:
        super().__init__(mesh, trial, enough)
        self._stub = inference_pb2_grpc.GRPCInferenceServiceStub(self.mesh.channel("inference"))
        self._loaded = ""

    def work(self) -> None:
        for i in self.rounds():
            version = str(1 + i % 2)
            request = inference_pb2.RepositoryModelLoadRequest(model_name="scale")
            request.parameters["version"].string_param = version
            answer(self._stub.RepositoryModelLoad, request)
            self._loaded = version
            self.acknowledged()
            for _ in range(3):
                self._ask()

    def check(self) -> None:
        self._ask()

    def _ask(self) -> None:
        numbers = np.arange(6, dtype=np.float32)
        request = inference_pb2.ModelInferRequest(model_name="scale", raw_input_contents=[numbers.tobytes()])
        request.inputs.add(name="x", datatype="FP32", shape=[2, 3])
        try:
            response = answer(self._stub.ModelInfer, request)
        except NotFound:
            self.findings.lost_writes.append(f"version {self._loaded} of the model is not loaded any more")
            return
        self.findings.num_reads += 1
        if response.model_version != self._loaded:
            self.findings.lost_writes.append(f"version {response.model_version} answers, {self._loaded} was loaded")
        result = np.frombuffer(response.raw_output_contents[0], np.float32)
        if not np.array_equal(result, numbers * FACTORS[response.model_version]):
            self.findings.torn_reads.append(f"version {response.model_version} of the model answers {result}")


class Marker(Client):
    """Marks images, and makes keys that it revokes."""

    def __init__(self, mesh: BrokenMesh, trial: str, enough: threading.Event) -> None:
        super().__init__(mesh, trial, enough)
        self._stub = watermark_pb2_grpc.WatermarkServiceStub(self.mesh.channel("watermark"))
        self._registry = registry_pb2_grpc.RegistryServiceStub(self.mesh.channel("registry"))
        self._before = self._marks() | self._keys().keys()
        self._marked: dict[str, bytes] = {}
        self._revoked: list[int] = []

    def work(self) -> None:
        for _ in self.rounds():
            mark = watermark_pb2.MarkImageRequest(image=PNG, request_id=request_id())
            marked = answer(self._stub.MarkImage, mark)
            self._marked[marked.watermark] = marked.image
            self.acknowledged()
            rotate = watermark_pb2.RotateKeyRequest(modality=watermark_pb2.MODALITY_TEXT, request_id=request_id())
            epoch = answer(self._stub.RotateKey, rotate).key.epoch
            self.acknowledged()
            revoke = watermark_pb2.RevokeKeyRequest(modality=watermark_pb2.MODALITY_TEXT, epoch=epoch)
            answer(self._stub.RevokeKey, revoke)
            self._revoked.append(epoch)
            self.acknowledged()

    def check(self) -> None:
        for name, image in self._marked.items():
            try:
                known = self._registry.GetWatermark(registry_pb2.GetWatermarkRequest(name=name)).watermark
            except NotFound:
                self.findings.lost_writes.append(f"{name} is gone")
                continue
            self.findings.num_reads += 1
            if known.content_sha256 != hashlib.sha256(image).hexdigest():
                self.findings.torn_reads.append(f"{name} is said to be in {known.content_sha256 or 'nothing'}")
        for name, image in list(self._marked.items())[:1]:
            look = watermark_pb2.DetectImageRequest(image=image, aligned_only=True)
            found = self._stub.DetectImage(look).detection.watermark
            if found != name:
                self.findings.lost_writes.append(f"{found or 'no mark'} is found where {name} is")
        drawn = self._marks() - self._before - self._marked.keys()
        self.findings.double_writers += [f"{name} was drawn and never told" for name in drawn]
        keys = {name: state for name, state in self._keys().items() if name not in self._before}
        if keys != dict.fromkeys(map(str, self._revoked), watermark_pb2.KEY_STATE_REVOKED):
            self.findings.lost_writes.append(f"of the keys {self._revoked}, which were revoked, there are {keys}")

    def _marks(self) -> set[str]:
        request = registry_pb2.ListWatermarksRequest(page_size=1000)
        return {mark.name for mark in self._registry.ListWatermarks(request).watermarks}

    def _keys(self) -> dict[str, int]:
        request = watermark_pb2.ListKeysRequest(modality=watermark_pb2.MODALITY_TEXT, page_size=1000)
        return {str(key.epoch): key.state for key in self._stub.ListKeys(request).keys}


class Runner(Client):
    """Submits one training run and waits for its end."""

    def __init__(self, mesh: BrokenMesh, trial: str, enough: threading.Event, expected: Undisturbed) -> None:
        super().__init__(mesh, trial, enough)
        self._stub = trainer_pb2_grpc.TrainerServiceStub(self.mesh.channel("trainer"))
        self._expected = expected
        self._before = {run.name for run in self.mesh.runs.list()}
        self._runs: list[str] = []

    def work(self) -> None:
        while True:
            request = trainer_pb2.SubmitRunRequest(spec=self._expected.spec, reuse=False, request_id=request_id())
            run = answer(self._stub.SubmitRun, request).run
            self._runs.append(run.name)
            self.acknowledged()
            if succeeds(self, "trainer", run.job):
                return

    def check(self) -> None:
        made = {run.name for run in self.mesh.runs.list()} - self._before
        self.findings.lost_writes += [f"{name} is gone" for name in set(self._runs) - made]
        self.findings.double_writers += [f"{name} was never asked for" for name in made - set(self._runs)]
        run = self.mesh.runs.get(self._runs[-1])
        metrics = {metric.name: metric.value for metric in run.metrics}
        if run.job.state != job_pb2.JOB_STATE_SUCCEEDED:
            self.findings.unfinished_jobs.append(f"{run.name} is {job_pb2.JobState.Name(run.job.state)}")
        elif (run.checkpoint.sha256, metrics) != (self._expected.checkpoint, self._expected.metrics):
            self.findings.unfinished_jobs.append(f"{run.name} has other weights than an undisturbed run")
        if run.HasField("checkpoint"):
            read_blob(self, run.checkpoint.sha256)
        events = list(self.mesh.runs.watch(run.name))
        ends = [event for event in events if event.HasField("state") and event.state.state in _FINAL]
        steps = [event.checkpoint.step for event in events if event.HasField("checkpoint")]
        if len(ends) != 1 or steps != sorted(set(steps)):
            self.findings.double_writers.append(f"{run.name} ended {len(ends)} times, with checkpoints at {steps}")
        if [event.sequence for event in events] != list(range(1, len(events) + 1)):
            self.findings.lost_writes.append(f"{run.name} has holes in its history")


class Exporter(Client):
    """Exports the undisturbed run as new models.

    Args:
        fresh: Export once, in a process of its own; else over and over what the trainer remembers.
    """

    def __init__(
        self, mesh: BrokenMesh, trial: str, enough: threading.Event, expected: Undisturbed, *, fresh: bool
    ) -> None:
        super().__init__(mesh, trial, enough)
        self._stub = trainer_pb2_grpc.TrainerServiceStub(self.mesh.channel("trainer"))
        self._expected = expected
        self._fresh = fresh
        self._models: list[str] = []

    def work(self) -> None:
        if self._fresh:
            # Options that no export had yet, so that nothing is remembered; without int8 the files are the same.
            self._export(f"models/{self.trial}-fresh", int8_max_loss=float(np.random.default_rng().random()))
            return
        for i in self.rounds():
            self._export(f"models/{self.trial}-e{i}")

    def _export(self, model: str, *, int8_max_loss: float = 0.005) -> None:
        while True:
            request = trainer_pb2.ExportModelRequest(
                run=self._expected.run, model=model, int8_max_loss=int8_max_loss, request_id=request_id()
            )
            job = answer(self._stub.ExportModel, request).job
            self.acknowledged()
            if succeeds(self, "trainer", job):
                self._models.append(model)
                return

    def check(self) -> None:
        for model in self._models:
            try:
                versions = list(self.mesh.models.versions(model.removeprefix("models/")))
            except NotFound:
                versions = []
            if not versions:
                self.findings.lost_writes.append(f"the version of {model} is gone")
                continue
            if len(versions) > 1:
                self.findings.double_writers.append(f"{model} has {len(versions)} versions")
            files = tuple(file.sha256 for file in self.mesh.models.manifest(versions[0]).files)
            if files != self._expected.model_files:
                self.findings.unfinished_jobs.append(f"{model} is not what an undisturbed export makes")
            for sha256 in files:
                read_blob(self, sha256)


def read_blob(client: Client, sha256: str) -> None:
    """Reads an artifact from the store."""
    try:
        data = client.mesh.store.read(client.mesh.tenant, sha256)
    except NotFound:
        client.findings.lost_writes.append(f"the store has no {sha256}")
    except DataLoss as error:
        client.findings.torn_reads.append(error.message)
    else:
        client.findings.num_reads += 1
        if hashlib.sha256(data).hexdigest() != sha256:
            client.findings.torn_reads.append(f"the store gave other bytes for {sha256}")


def read_numbers(client: Client, version: str) -> None:
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
