"""Early stopping in the mesh, and runs that start from a model version."""

import pytest

from common.artifacts import open_store
from common.errors import InvalidArgument
from deepseek.models.manifest import ModelManifest
from protos.job.v1 import job_pb2
from protos.registry.v1 import registry_pb2
from protos.trainer.v1 import trainer_pb2 as pb
from tests.services.trainer import exports
from tests.services.trainer.conftest import TrainerMesh
from tests.services.trainer.tasks import PICTURE_FIELDS, add_dataset, picture_spec, pictures

pytestmark = pytest.mark.slow


def export(mesh: TrainerMesh, run: str, model: str) -> registry_pb2.ModelVersion:
    job = exports.export(mesh, pb.ExportModelRequest(run=run, model=model))
    assert job.state == job_pb2.JOB_STATE_SUCCEEDED, job.error
    return mesh.models.GetModelVersion(registry_pb2.GetModelVersionRequest(name=job.result)).model_version


def finished(mesh: TrainerMesh, name: str) -> tuple[pb.Run, list[pb.RunEvent]]:
    events = list(mesh.watch(name))
    return mesh.run(name), events


def manifest_of(mesh: TrainerMesh, version: registry_pb2.ModelVersion) -> ModelManifest:
    store = open_store(f"file://{mesh.home / 'store'}")
    return ModelManifest.from_bytes(store.read("default", version.manifest.sha256))


@pytest.fixture(scope="module")
def version(mesh: TrainerMesh, trained: pb.Run) -> str:
    """A model version with the alias `champion`."""
    made = export(mesh, trained.name, "models/pictures")
    manifest = manifest_of(mesh, made)
    assert manifest.weights is not None
    assert manifest.metrics == {metric.name: metric.value for metric in trained.metrics}
    request = registry_pb2.SetAliasRequest(name="models/pictures/aliases/champion", version=made.name)
    mesh.models.SetAlias(request)
    return str(made.name)


def test_a_run_starts_from_the_weights_and_words_of_a_version(mesh: TrainerMesh, trained: pb.Run, version: str) -> None:
    # Other pictures, so that an encoder fitted on them would number the words differently.
    data = add_dataset(mesh.registry.channel(), mesh.home / "store", "more", PICTURE_FIELDS, pictures(9, 16)[1:])
    spec = picture_spec(
        data,
        init="models/pictures/aliases/champion",
        freeze=["words", "convolutions"],
        optimizer={"name": "adamw", "params": {"lr": 0.0}},
        schedule={},
        epochs=1,
    )
    run, _ = finished(mesh, mesh.submit(spec).name)
    assert run.job.state == job_pb2.JOB_STATE_SUCCEEDED, run.job
    assert run.spec.init == version
    # With a learning rate of 0, only the weights and the vocabulary of the version give its figures.
    figures = {metric.name: metric.value for metric in run.metrics}
    assert figures["accuracy"] > 0.9
    # The run keeps what its export needs.
    mesh.models.DeleteDataset(registry_pb2.DeleteDatasetRequest(name="datasets/more"))
    tuned = export(mesh, run.name, "models/tuned")
    first, second = (
        manifest_of(mesh, mesh.models.GetModelVersion(registry_pb2.GetModelVersionRequest(name=name)).model_version)
        for name in (version, tuned.name)
    )
    assert [one.encoder for one in second.inputs] == [one.encoder for one in first.inputs]
    edges = mesh.models.GetLineage(registry_pb2.GetLineageRequest(name=tuned.name, depth=1)).edges
    assert {version, data} <= {edge.source for edge in edges}


def test_weights_that_do_not_fit_are_refused_before_the_first_step(mesh: TrainerMesh, version: str) -> None:
    model = {"name": "image_question", "params": {"num_classes": 5, "width": 8, "features": 16}}
    run, events = finished(mesh, mesh.submit(picture_spec(mesh.pictures, init=version, model=model)).name)
    assert run.job.state == job_pb2.JOB_STATE_FAILED
    error = run.job.error
    assert (error.code, error.reason, error.field) == ("FAILED_PRECONDITION", "INIT_MISMATCH", "spec.init")
    assert "has shape" in error.message
    assert not [event for event in events if event.HasField("step")]


def test_an_unknown_version_is_reported_with_the_other_mistakes(mesh: TrainerMesh) -> None:
    spec = picture_spec(mesh.pictures, init="models/nothing/versions/1", epochs=0, target={"field": "sad"})
    with pytest.raises(InvalidArgument) as caught:
        mesh.submit(spec)
    fields = [violation.field for violation in caught.value.violations]
    assert fields == ["spec.epochs", "spec.target.field", "spec.init"]


def test_a_run_ends_early_in_the_mesh(mesh: TrainerMesh) -> None:
    spec = picture_spec(
        mesh.pictures,
        optimizer={"name": "adamw", "params": {"lr": 0.0}},
        early_stopping={"patience": 2},
        select_metric="accuracy",
        num_workers=1,
    )
    run, events = finished(mesh, mesh.submit(spec).name)
    evaluations = [event.evaluation for event in events if event.HasField("evaluation")]
    assert [one.ends_run for one in evaluations] == [False, False, True]
    assert run.best_epoch == 1
    assert run.job.state == job_pb2.JOB_STATE_SUCCEEDED
