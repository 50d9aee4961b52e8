"""What the trainer refuses before a run exists, and what it fills in."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from common.errors import AlreadyExists, InvalidArgument, MeshError, NotFound, ResourceExhausted
from protos.job.v1 import job_pb2
from protos.trainer.v1 import trainer_pb2 as pb
from tests.services.trainer.conftest import TrainerMesh, start_trainer
from tests.services.trainer.tasks import picture_spec


def refusal(mesh: TrainerMesh, **changes: Any) -> MeshError:
    with pytest.raises(MeshError) as caught:
        mesh.submit(picture_spec(mesh.pictures, **changes))
    return caught.value


def inputs(**changes: Any) -> dict[str, Any]:
    """The inputs of the pictures, the second one changed."""
    first, second = picture_spec("")["inputs"]
    return {"inputs": [first, {**second, **changes}]}


@pytest.mark.parametrize(
    ("changes", "reason", "field"),
    [
        ({"dataset_version": ""}, "MISSING_FIELD", "spec.dataset_version"),
        ({"model": {}}, "MISSING_FIELD", "spec.model.name"),
        ({"model": {"name": "resnet49"}}, "UNKNOWN_COMPONENT", "spec.model.name"),
        ({"loss": {"name": "zero_one"}}, "UNKNOWN_COMPONENT", "spec.loss.name"),
        ({"optimizer": {"name": "luck"}}, "UNKNOWN_COMPONENT", "spec.optimizer.name"),
        ({"schedule": {"name": "never"}}, "UNKNOWN_COMPONENT", "spec.schedule.name"),
        ({"metrics": [{"name": "accuracy"}, {"name": "charm"}]}, "UNKNOWN_COMPONENT", "spec.metrics[1].name"),
        ({"metrics": [{"name": "accuracy"}, {"name": "accuracy"}]}, "BAD_VALUE", "spec.metrics[1].name"),
        ({"inputs": []}, "MISSING_FIELD", "spec.inputs"),
        (inputs(field="smell"), "BAD_VALUE", "spec.inputs[1].field"),
        (inputs(input="image"), "BAD_VALUE", "spec.inputs[1].input"),
        (inputs(encoder={"name": "braille"}), "UNKNOWN_COMPONENT", "spec.inputs[1].encoder.name"),
        (
            inputs(encoder={"name": "words", "params": {"depth": 1}}),
            "UNKNOWN_FIELD",
            "spec.inputs[1].encoder.params.depth",
        ),
        (inputs(encoder={"name": "label"}), "BAD_VALUE", "spec.inputs[1].encoder.name"),
        (inputs(augmentations=[{"name": "salt"}]), "UNKNOWN_COMPONENT", "spec.inputs[1].augmentations[0].name"),
        ({"target": {}}, "MISSING_FIELD", "spec.target.field"),
        ({"target": {"field": "unsaid"}}, "BAD_VALUE", "spec.target.field"),
        ({"train_split": "nowhere"}, "BAD_VALUE", "spec.train_split"),
        ({"epochs": 0}, "BAD_VALUE", "spec.epochs"),
        ({"batch_size": 1}, "BAD_VALUE", "spec.batch_size"),
        ({"num_workers": 1000}, "BAD_VALUE", "spec.num_workers"),
        ({"seed": -1}, "BAD_VALUE", "spec.seed"),
        ({"clip_norm": "NaN"}, "BAD_VALUE", "spec.clip_norm"),
        ({"checkpoint_interval_s": -1}, "BAD_VALUE", "spec.checkpoint_interval_s"),
        ({"precision": 77}, "BAD_VALUE", "spec.precision"),
        ({"model": {"name": "image_question", "params": {"weights": "x" * 40_000}}}, "TOO_LARGE", "spec"),
    ],
)
def test_a_wrong_spec_is_refused_with_reason_and_field(
    mesh: TrainerMesh, changes: dict[str, Any], reason: str, field: str
) -> None:
    error = refusal(mesh, **changes)
    assert isinstance(error, InvalidArgument)
    assert (error.reason, error.field) == (reason, field)


def test_every_wrong_field_is_named_at_once(mesh: TrainerMesh) -> None:
    error = refusal(mesh, model={"name": "resnet49"}, epochs=0, target={})
    assert {"spec.model.name", "spec.epochs", "spec.target.field"} == {one.field for one in error.violations}


def test_an_unknown_component_lists_the_known_ones(mesh: TrainerMesh) -> None:
    assert "image_question" in refusal(mesh, model={"name": "resnet49"}).message


@pytest.mark.parametrize(
    "name", ["datasets/none/versions/1", "datasets/pictures/versions/99", "datasets/pictures/aliases/x"]
)
def test_an_unknown_data_set_version_is_not_found(mesh: TrainerMesh, name: str) -> None:
    error = refusal(mesh, dataset_version=name)
    assert isinstance(error, NotFound)
    assert (error.reason, error.field) == ("DATASET_VERSION_NOT_FOUND", "spec.dataset_version")


def test_a_malformed_data_set_version_is_a_bad_name(mesh: TrainerMesh) -> None:
    error = refusal(mesh, dataset_version="pictures")
    assert (error.code, error.reason, error.field) == ("INVALID_ARGUMENT", "BAD_NAME", "spec.dataset_version")


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        (b"\xa0\x06\x01", "spec.100"),  # field 100, varint
        (b"\x12\x03\xa0\x06\x01", "spec.model.100"),
        (b"\x3a\x07\x1a\x05\x0a\x00\xa0\x06\x01", "spec.inputs[0].encoder.100"),
    ],
)
def test_a_field_that_this_version_does_not_know_is_refused(mesh: TrainerMesh, spec: bytes, field: str) -> None:
    request = pb.SubmitRunRequest(spec=pb.RunSpec.FromString(spec))
    with pytest.raises(InvalidArgument) as caught:
        mesh.runs.SubmitRun(request)
    assert (caught.value.reason, caught.value.field) == ("UNKNOWN_FIELD", field)


def test_an_infinite_parameter_is_refused(mesh: TrainerMesh) -> None:
    spec = pb.RunSpec()
    spec.model.params["width"] = float("inf")
    with pytest.raises(InvalidArgument) as caught:
        mesh.runs.SubmitRun(pb.SubmitRunRequest(spec=spec))
    assert caught.value.reason == "BAD_VALUE"


def test_defaults_are_filled_in_and_the_fingerprint_is_of_the_content(trained: pb.Run, mesh: TrainerMesh) -> None:
    spec = trained.spec
    assert spec.dataset_version == mesh.pictures
    assert (spec.loss.name, spec.train_split, spec.eval_split) == ("cross_entropy", "train", "test")
    assert spec.target.encoder.name == "label"
    assert spec.checkpoint_interval_s == 10
    assert len(trained.fingerprint) == 64


def test_a_spec_can_be_checked_without_starting_a_run(mesh: TrainerMesh) -> None:
    before = [run.name for run in mesh.runs.ListRuns(pb.ListRunsRequest()).runs]
    spec = mesh.spec(picture_spec(mesh.pictures.replace("/versions/1", "/versions/latest")))
    checked = mesh.runs.SubmitRun(pb.SubmitRunRequest(spec=spec, validate_only=True)).run
    assert (checked.spec.dataset_version, checked.spec.loss.name) == (mesh.pictures, "cross_entropy")
    assert not checked.name
    wrong = mesh.spec(picture_spec(mesh.pictures, target={"field": "answer"}, epochs=0))
    with pytest.raises(InvalidArgument) as caught:
        mesh.runs.SubmitRun(pb.SubmitRunRequest(spec=wrong, validate_only=True))
    assert [one.field for one in caught.value.violations] == ["spec.epochs", "spec.target.field"]
    assert [run.name for run in mesh.runs.ListRuns(pb.ListRunsRequest()).runs] == before


def test_an_equal_run_is_reused_if_asked_for(trained: pb.Run, mesh: TrainerMesh) -> None:
    named = picture_spec(mesh.pictures, loss={"name": "cross_entropy"}, eval_split="test")  # the defaults, said aloud
    again = mesh.runs.SubmitRun(pb.SubmitRunRequest(spec=mesh.spec(named), reuse=True))
    assert again.reused
    assert again.run.name == trained.name


def test_a_different_run_is_not_reused(trained: pb.Run, mesh: TrainerMesh) -> None:
    other = mesh.submit(picture_spec(mesh.pictures, seed=4), reuse=True)
    assert other.name != trained.name
    assert other.fingerprint != trained.fingerprint
    mesh.runs.StopRun(pb.StopRunRequest(name=other.name))


def test_a_repeated_request_makes_one_run(mesh: TrainerMesh) -> None:
    first = mesh.submit(request_id="once")
    assert mesh.submit(request_id="once").name == first.name
    with pytest.raises(AlreadyExists) as caught:
        mesh.submit(picture_spec(mesh.pictures, seed=9), request_id="once")
    assert (caught.value.reason, caught.value.field) == ("REQUEST_ID_REUSED", "request_id")
    mesh.runs.StopRun(pb.StopRunRequest(name=first.name))


def test_unknown_and_malformed_runs_are_told_apart(mesh: TrainerMesh) -> None:
    for call in (lambda name: mesh.run(name), lambda name: list(mesh.watch(name))):
        with pytest.raises(NotFound) as unknown:
            call("runs/none")
        assert unknown.value.reason == "RUN_NOT_FOUND"
        with pytest.raises(InvalidArgument) as malformed:
            call("run/none")
        assert malformed.value.reason == "BAD_NAME"


def test_runs_are_listed_newest_first_page_by_page(mesh: TrainerMesh) -> None:
    made = [mesh.submit(picture_spec(mesh.pictures, seed=100 + i)).name for i in range(3)]
    for name in made:
        mesh.runs.StopRun(pb.StopRunRequest(name=name))
    first = mesh.runs.ListRuns(pb.ListRunsRequest(page_size=2))
    second = mesh.runs.ListRuns(pb.ListRunsRequest(page_size=2, page_token=first.next_page_token))
    assert [run.name for run in [*first.runs, *second.runs]][:3] == made[::-1]
    with pytest.raises(InvalidArgument) as caught:
        mesh.runs.ListRuns(pb.ListRunsRequest(page_token="x"))
    assert caught.value.reason == "BAD_PAGE_TOKEN"


def test_a_run_that_was_stopped_before_it_began_is_cancelled_and_says_so(mesh: TrainerMesh) -> None:
    filling = [mesh.submit(picture_spec(mesh.pictures, seed=200 + i, epochs=500)).name for i in range(2)]
    waiting = mesh.submit(picture_spec(mesh.pictures, seed=300)).name
    stopped = mesh.runs.StopRun(pb.StopRunRequest(name=waiting)).run
    assert stopped.job.state == job_pb2.JOB_STATE_CANCELLED
    events = list(mesh.watch(waiting))
    assert [event.state.state for event in events] == [job_pb2.JOB_STATE_PENDING, job_pb2.JOB_STATE_CANCELLED]
    assert [event.sequence for event in events] == [1, 2]
    for name in filling:
        mesh.runs.StopRun(pb.StopRunRequest(name=name))


@pytest.mark.slow
def test_a_tenant_has_no_more_runs_and_exports_under_way_than_it_may(tmp_path: Path) -> None:
    with ExitStack() as owned:
        mesh = start_trainer(tmp_path / "home", owned, max_jobs_per_tenant="1")
        spec = picture_spec(mesh.pictures)
        done = mesh.submit(spec).name
        for _ in mesh.watch(done):
            pass
        spec |= {"epochs": 10_000}
        first = mesh.submit(spec, request_id="first")

        with pytest.raises(ResourceExhausted) as run:
            mesh.submit({**spec, "seed": 1}, request_id="second")
        with pytest.raises(ResourceExhausted) as export:
            mesh.runs.ExportModel(pb.ExportModelRequest(run=done, model="models/m"))
        for caught in (run, export):
            assert caught.value.reason == "QUOTA_EXCEEDED"
            assert caught.value.retry_delay_s
        # What was accepted before is answered as ever, and an equal run is no other one.
        assert mesh.submit(spec, request_id="first").name == first.name
        assert mesh.submit(spec, reuse=True).name == first.name

        mesh.runs.StopRun(pb.StopRunRequest(name=first.name))
        for _ in mesh.watch(first.name):
            pass
        second = mesh.submit({**spec, "seed": 1}, request_id="second")
        mesh.runs.StopRun(pb.StopRunRequest(name=second.name))
