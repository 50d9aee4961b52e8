"""The trainer's part of the fault trials."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

import numpy as np
from google.protobuf import json_format

from common.errors import NotFound
from deepseek.client.mesh import Mesh
from protos.job.v1 import job_pb2
from protos.trainer.v1 import trainer_pb2, trainer_pb2_grpc
from tests.faults.workload import BASE, FINAL, Workload, WritingClient, answer, read_blob, request_id, succeeds
from tests.harness.mesh import MeshProcesses
from tests.services.trainer.tasks import PICTURE_FIELDS, picture_spec, pictures


@dataclass(frozen=True)
class Undisturbed:
    """The results of a run and an export during which nothing breaks.

    Attributes:
        spec: The training run of all trials.
        run: Name of one that has succeeded.
        checkpoint: Digest of its weights.
        metrics: Its metrics.
        model_files: Digests of its export's files; its manifest also has speeds, which differ.
    """

    spec: trainer_pb2.RunSpec
    run: str
    checkpoint: str
    metrics: dict[str, float]
    model_files: tuple[str, ...]


class Runner(WritingClient):
    """Submits one training run and waits for its end."""

    def __init__(self, mesh: MeshProcesses, trial: str, enough: threading.Event, expected: Undisturbed) -> None:
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
        ends = [event for event in events if event.HasField("state") and event.state.state in FINAL]
        steps = [event.checkpoint.step for event in events if event.HasField("checkpoint")]
        if len(ends) != 1 or steps != sorted(set(steps)):
            self.findings.double_writers.append(f"{run.name} ended {len(ends)} times, with checkpoints at {steps}")
        if [event.sequence for event in events] != list(range(1, len(events) + 1)):
            self.findings.lost_writes.append(f"{run.name} has holes in its history")


class Exporter(WritingClient):
    """Exports the undisturbed run as new models.

    Args:
        fresh: Export once, with new options; otherwise repeat an export that the trainer remembers.
    """

    def __init__(
        self, mesh: MeshProcesses, trial: str, enough: threading.Event, expected: Undisturbed, *, fresh: bool
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


class TrainerWorkload(Workload):
    """Runs and exports."""

    settings: ClassVar[Mapping[str, str]] = {"lease_s": "3.0", "stop_grace_s": "3"}

    def __init__(self, mesh: MeshProcesses) -> None:
        with Mesh(mesh.file) as client:
            data = client.datasets.upload("pictures", PICTURE_FIELDS, pictures()).name
            spec = picture_spec(data, epochs=20, num_workers=1, checkpoint_interval_s=0.3)
            message = json_format.ParseDict(spec, trainer_pb2.RunSpec())
            run = client.runs.wait(client.runs.submit(message, reuse=False)[0].name)
            manifest = client.models.manifest(client.runs.export(run.name, BASE))
        files = tuple(file.sha256 for file in manifest.files)
        metrics = {metric.name: metric.value for metric in run.metrics}
        self._expected = Undisturbed(message, run.name, run.checkpoint.sha256, metrics, files)

    def clients(self, mesh: MeshProcesses, trial: str, enough: threading.Event) -> list[WritingClient]:
        return [Exporter(mesh, trial, enough, self._expected, fresh=False)]

    def reads(self) -> Sequence[Callable[[WritingClient], None]]:
        blobs = (self._expected.checkpoint, *self._expected.model_files)
        return [partial(read_blob, sha256=sha256) for sha256 in blobs]

    def job_client(self, job: str, mesh: MeshProcesses, trial: str, enough: threading.Event) -> WritingClient | None:
        if job == "run":
            return Runner(mesh, trial, enough, self._expected)
        if job == "export":
            return Exporter(mesh, trial, enough, self._expected, fresh=True)
        return None


WORKLOAD = TrainerWorkload
