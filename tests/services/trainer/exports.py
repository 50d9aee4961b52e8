"""Exports of a run, and what they wrote."""

from common.artifacts import open_store
from deepseek.models.manifest import ModelManifest
from protos.job.v1 import job_pb2
from protos.registry.v1 import registry_pb2
from protos.trainer.v1 import trainer_pb2 as pb
from tests.services.trainer.conftest import TrainerMesh


def export(mesh: TrainerMesh, request: pb.ExportModelRequest) -> job_pb2.Job:
    """Exports and waits for the job's end."""
    name = mesh.runs.ExportModel(request).job.name
    *_, last = mesh.jobs.WatchJob(job_pb2.WatchJobRequest(name=name), timeout=400)
    job: job_pb2.Job = last.job
    return job


def manifest_of(mesh: TrainerMesh, version: registry_pb2.ModelVersion) -> ModelManifest:
    store = open_store(f"file://{mesh.home / 'store'}")
    return ModelManifest.from_bytes(store.read("default", version.manifest.sha256))
