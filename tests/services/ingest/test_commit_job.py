"""A commit makes one version, wholly or not at all, whatever is killed meanwhile."""

import random

import pytest

from common.errors import MeshError
from protos.ingest.v1 import ingest_pb2
from protos.job.v1 import job_pb2, job_pb2_grpc
from services.ingest.samples import SHARD_SAMPLES
from services.ingest.writer import MAX_SPLITS
from tests.harness.processes import wait_until
from tests.services.ingest.client import NUMBERS, IngestClient, number
from tests.services.ingest.conftest import IngestMesh


def mixed(count: int) -> list[ingest_pb2.Sample]:
    """Samples of three splits, mixed."""
    draw = random.Random(count)
    return [number(i, draw.choice(("train", "train", "test", "validation"))) for i in range(count)]


def job_of(client: IngestClient, job: job_pb2.Job) -> job_pb2.Job:
    stub = job_pb2_grpc.JobServiceStub(client.channel)
    response: job_pb2.GetJobResponse = stub.GetJob(job_pb2.GetJobRequest(name=job.name))
    return response.job


def test_equal_data_adds_no_blob_and_no_version(mesh: IngestMesh, client: IngestClient) -> None:
    samples = mixed(3 * SHARD_SAMPLES)
    first = client.create("equal", NUMBERS)
    client.send(first, samples)
    version = client.commit(first)
    before = mesh.blobs()
    second = client.create("equal", NUMBERS)
    client.send(second, samples[:1500], sizes=(1, 2, 400))
    client.send(second, samples[1500:], offset=1500, sizes=(1000,))
    assert client.commit(second) == version
    third = client.create("equal-elsewhere", NUMBERS)
    client.send(third, samples, sizes=(5000,))
    elsewhere = client.commit(third)
    assert elsewhere.name == "datasets/equal-elsewhere/versions/1"
    assert elsewhere.manifest == version.manifest
    assert mesh.blobs() == before


def test_how_splits_are_mixed_does_not_matter(client: IngestClient) -> None:
    train, test = [number(i) for i in range(1500)], [number(i, "test") for i in range(2000, 3200)]
    digests = set()
    for samples in (train + test, test + train, [s for pair in zip(train, test, strict=False) for s in pair]):
        upload = client.create("order-of-splits", NUMBERS)
        client.send(upload, samples + (train[1200:] if len(samples) == 2400 else []))
        digests.add(client.commit(upload).manifest.sha256)
    assert len(digests) == 1


def test_a_commit_closes_the_upload_and_its_job_tells_the_version(client: IngestClient) -> None:
    upload = client.create("closes", NUMBERS)
    client.send(upload, [number(0)])
    job = client.start_commit(upload)
    assert job.kind == "ingest.commit"
    assert client.state(upload).state == ingest_pb2.UPLOAD_STATE_COMMITTED
    assert client.wait(job) == "datasets/closes/versions/1"
    with pytest.raises(MeshError) as caught:
        client.send(upload, [number(1)], offset=1)
    assert (caught.value.code, caught.value.reason) == ("FAILED_PRECONDITION", "UPLOAD_CLOSED")
    with pytest.raises(MeshError) as caught:
        client.ingest.DeleteUpload(ingest_pb2.DeleteUploadRequest(name=upload))
    assert caught.value.reason == "UPLOAD_CLOSED"
    assert client.state(upload).num_samples == 1


@pytest.mark.faults
def test_a_commit_waits_for_a_registry_that_is_away_even_if_it_is_killed_or_cancelled(own_mesh: IngestMesh) -> None:
    client = own_mesh.client()
    upload = client.create("patience", NUMBERS)
    client.send(upload, mixed(100))
    own_mesh.registry.kill()
    job = client.start_commit(upload)
    wait_until(lambda: "waiting" in job_of(client, job).message, "the commit to find the registry away")
    own_mesh.ingest.kill()
    own_mesh.ingest.start()
    client = own_mesh.client()
    wait_until(lambda: job_of(client, job).attempt == 2, "the job to be taken up again")
    job_pb2_grpc.JobServiceStub(client.channel).CancelJob(job_pb2.CancelJobRequest(name=job.name))
    assert client.state(upload).state == ingest_pb2.UPLOAD_STATE_COMMITTED
    own_mesh.registry.start()
    assert client.wait(job) == "datasets/patience/versions/1"
    assert client.num_versions("patience") == 1


@pytest.mark.faults
def test_a_registration_whose_answer_is_lost_is_not_made_twice(own_mesh: IngestMesh) -> None:
    client = own_mesh.client()
    upload = client.create("lost-answer", NUMBERS)
    client.send(upload, mixed(100))
    # A registry that stands still takes the call and does not answer before ingest is dead.
    own_mesh.registry.pause()
    job = client.start_commit(upload)
    wait_until(lambda: job_of(client, job).message == "registering the version", "the call to the registry")
    own_mesh.ingest.kill()
    own_mesh.registry.resume()
    own_mesh.ingest.start()
    assert own_mesh.client().wait(job) == "datasets/lost-answer/versions/1"
    assert own_mesh.client().num_versions("lost-answer") == 1


@pytest.mark.faults
def test_a_commit_killed_half_way_is_completed_once(own_mesh: IngestMesh) -> None:
    client = own_mesh.client()
    samples = [number(i, f"split-{i % MAX_SPLITS}") for i in range(4 * MAX_SPLITS)]
    undisturbed = client.create("undisturbed", NUMBERS)
    client.send(undisturbed, samples)
    expected = client.commit(undisturbed).manifest
    upload = client.create("killed", NUMBERS)
    client.send(upload, samples)
    for path in own_mesh.store.glob("default/sha256/*/*"):
        path.unlink()
    job = client.start_commit(upload)
    for progress in (0.1, 0.5):
        client = own_mesh.client()
        wait_until(lambda c=client, p=progress: job_of(c, job).progress > p, f"{progress:.0%} of the commit")  # type: ignore[misc]
        own_mesh.ingest.kill()
        own_mesh.ingest.start()
    client = own_mesh.client()
    version = client.version(client.wait(job))
    assert version.manifest == expected
    assert client.num_versions("killed") == 1
    assert job_of(client, job).attempt >= 2
    assert sum(len(message.samples) for message in client.read(version.name, "split-7")) == 4


@pytest.mark.faults
def test_a_cancelled_commit_publishes_nothing_and_the_upload_is_open_again(own_mesh: IngestMesh) -> None:
    client = own_mesh.client()
    upload = client.create("cancelled", NUMBERS)
    client.send(upload, [number(i, f"split-{i}") for i in range(MAX_SPLITS)])
    job = client.start_commit(upload)
    job_pb2_grpc.JobServiceStub(client.channel).CancelJob(job_pb2.CancelJobRequest(name=job.name))
    with pytest.raises(MeshError) as caught:
        client.wait(job)
    assert caught.value.code == "CANCELLED"
    with pytest.raises(MeshError) as caught:
        client.num_versions("cancelled")
    assert caught.value.reason == "DATASET_NOT_FOUND"
    assert client.state(upload).state == ingest_pb2.UPLOAD_STATE_OPEN
    client.send(upload, [number(MAX_SPLITS, "split-0")], offset=MAX_SPLITS)
    assert client.commit(upload).num_samples == MAX_SPLITS + 1
