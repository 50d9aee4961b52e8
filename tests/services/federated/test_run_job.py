"""Runs are prepared once, register a model version for each round, and continue after the loss of a lease."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import FailedPrecondition, MeshError
from common.jobs import JobState
from deepseek.federated.arrays import from_bytes
from deepseek.federated.flower.engine import Task, TaskReply
from protos.registry.v1 import registry_pb2
from tests.deepseek.federated.simulated_nodes import changed, honest, scaled
from tests.services.federated.examples import model_spec
from tests.services.federated.run_in_process import Coordinator

pytestmark = pytest.mark.slow


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    made = Coordinator(tmp_path)
    yield made
    made.close()


def test_each_round_of_a_run_becomes_a_model_version_with_lineage(coordinator: Coordinator) -> None:
    name = coordinator.start().name
    coordinator.execute()
    run = coordinator.service.get("default", name)
    assert run.job.state is JobState.SUCCEEDED, run.job.error
    assert (run.num_released, run.job.result) == (2, name)
    request = registry_pb2.ListModelVersionsRequest(parent="models/common")
    versions = coordinator.registry.ListModelVersions(request).model_versions
    assert [version.name for version in versions] == ["models/common/versions/2", "models/common/versions/1"]
    for version in versions:
        assert set(version.sources) == {coordinator.pictures, name}
        assert {"test/loss", "test/accuracy"} <= {metric.name for metric in version.metrics}
        assert not version.HasField("privacy")
    states = [(event["round"], event["state"]) for event in coordinator.events("round")]
    assert states == [(n, state) for n in (1, 2) for state in ("PLANNED", "COLLECTED", "RELEASED")]
    released = coordinator.events("round")[-1]
    assert released["model_version"] == "models/common/versions/2"
    assert released["num_counted"] == released["num_asked"] == 3
    assert [event["state"] for event in coordinator.events("state")] == ["PENDING", "RUNNING", "SUCCEEDED"]
    assert {"loss", "accuracy", "train_loss"} <= released["metrics"].keys()
    values, arrays = coordinator.service.model("default", name, 1)
    assert values["model_version"] == "models/common/versions/1"
    assert from_bytes(coordinator.store.read("default", arrays.sha256))
    assert not list(coordinator.directory.iterdir())


def test_a_run_continues_with_the_round_in_which_another_coordinator_lost_it(coordinator: Coordinator) -> None:
    name = coordinator.start(num_rounds=3, register_every=2).name
    first = coordinator.claim("first")

    def lose(task: Task) -> list[TaskReply]:
        if len(coordinator.rounds()) == 2:
            first.lost.set()
        return honest(task)

    coordinator.engine.behaviours = {"aa": lose}
    coordinator.execute(first)
    recipe = coordinator.service.get("default", name).recipe
    assert recipe
    assert coordinator.rounds()[0].state == "RELEASED"
    coordinator.engine.behaviours = {}
    first.release()
    coordinator.execute(coordinator.claim("second"))
    run = coordinator.service.get("default", name)
    assert run.job.state is JobState.SUCCEEDED, run.job.error
    assert run.recipe == recipe
    assert [(row.round, row.attempt, row.state) for row in coordinator.rounds()] == [
        (n, 1, "RELEASED") for n in (1, 2, 3)
    ]
    assert [event["round"] for event in coordinator.events("attempt")] == [1, 2]
    versions = [row.model_version for row in coordinator.rounds()]
    assert versions == ["", "models/common/versions/1", "models/common/versions/2"]


def test_a_refused_update_is_named_by_its_node(tmp_path: Path) -> None:
    coordinator = Coordinator(tmp_path, {"bb": scaled(1e9)})
    try:
        coordinator.start(num_rounds=1, max_update_norm=1000)
        coordinator.execute()
        released = coordinator.events("round")[-1]
        assert released["num_counted"] == 2
        (refusal,) = released["refusals"]
        assert (refusal["node"], refusal["reason"]) == ("federations/clinics/nodes/n-bb", "NORM_TOO_LARGE")
    finally:
        coordinator.close()


def test_by_default_an_update_far_above_the_others_is_refused(tmp_path: Path) -> None:
    coordinator = Coordinator(tmp_path, {"bb": scaled(1e36)})
    try:
        name = coordinator.start(num_rounds=1).name
        coordinator.execute()
        released = coordinator.events("round")[-1]
        assert released["num_counted"] == 2
        assert [(one["node"], one["reason"]) for one in released["refusals"]] == [
            ("federations/clinics/nodes/n-bb", "NORM_TOO_LARGE")
        ]
        assert coordinator.service.model("default", name, 0)[0]["model_version"] != ""
    finally:
        coordinator.close()


def test_nodes_that_cannot_take_part_are_named_before_the_first_round(tmp_path: Path) -> None:
    fingerprints = ("aa" * 32, "bb" * 32, "cc" * 32)
    failing = changed(reason="BAD_SOURCE", error="there is no such folder", arrays=b"")
    coordinator = Coordinator(tmp_path, dict.fromkeys(fingerprints[:2], failing), fingerprints=fingerprints)
    try:
        name = coordinator.start(num_rounds=1, quorum=2).name
        coordinator.execute()
        run = coordinator.service.get("default", name)
        assert run.job.state is JobState.FAILED
        assert run.job.error is not None
        assert run.job.error.reason == "NODES_NOT_READY"
        assert "federations/clinics/nodes/n-bb: BAD_SOURCE" in run.job.error.message
        assert coordinator.rounds() == []
        coordinator.start(num_rounds=1, quorum=1)
        coordinator.execute()
        (first, second) = coordinator.events("warning")
        assert first["reason"] == second["reason"] == "NODE_NOT_READY"
        assert "federations/clinics/nodes/n-aa: BAD_SOURCE" in first["message"]
        assert coordinator.events("round")[-1]["num_counted"] == 1
    finally:
        coordinator.close()


def test_a_result_that_is_no_usable_model_is_released_without_a_version(tmp_path: Path) -> None:
    coordinator = Coordinator(tmp_path, {"bb": scaled(1e36)})
    try:
        name = coordinator.start(num_rounds=1, max_update_norm=1e300).name
        coordinator.execute()
        run = coordinator.service.get("default", name)
        assert run.job.state is JobState.SUCCEEDED, run.job.error
        values, arrays = coordinator.service.model("default", name, 0)
        assert values["model_version"] == ""
        assert coordinator.store.exists("default", arrays.sha256)
        assert coordinator.events("warning")[-1]["reason"] == "MODEL_NOT_REGISTERED"
    finally:
        coordinator.close()


def test_a_stopped_run_keeps_its_released_models(coordinator: Coordinator) -> None:
    name = coordinator.start(num_rounds=3).name
    lease = coordinator.claim()

    def behave(task: Task) -> list[TaskReply]:
        if len(coordinator.rounds()) == 2:
            coordinator.service.stop("default", name)
            lease.cancelled.set()  # as the runner's renewal of the lease does
        return honest(task)

    coordinator.engine.behaviours = {"aa": behave}
    coordinator.execute(lease)
    run = coordinator.service.get("default", name)
    assert run.job.state is JobState.CANCELLED
    assert run.num_released == 1
    assert [row.state for row in coordinator.rounds()] == ["RELEASED", "FAILED"]
    assert coordinator.events("state")[-1]["state"] == "CANCELLED"
    with pytest.raises(FailedPrecondition) as caught:
        coordinator.service.model("default", name, 2)
    assert caught.value.reason == "ROUND_NOT_RELEASED"


def test_a_model_that_the_data_do_not_suit_fails_the_run_with_the_field_of_its_spec(coordinator: Coordinator) -> None:
    model = {"name": "image_question", "params": {"num_classes": 2, "width": 4, "features": 16, "norm": "group"}}
    name = coordinator.start(model=model_spec(coordinator.pictures, model=model)).name
    coordinator.execute()
    run = coordinator.service.get("default", name)
    assert run.job.state is JobState.FAILED
    assert run.job.error is not None
    assert run.job.error.code == "INVALID_ARGUMENT"
    assert run.job.error.field.startswith("spec.model.")
    assert coordinator.rounds() == []


def test_mistakes_of_a_spec_are_refused_before_anything_starts(coordinator: Coordinator) -> None:
    for changes, reason in (
        ({"quorum": 4}, "QUORUM_TOO_LARGE"),
        ({"sampling": {"num_nodes": 4}}, "TOO_FEW_NODES"),
        ({"strategy": {"name": "best"}}, "UNKNOWN_STRATEGY"),
        (
            {"model": model_spec("datasets/none/versions/1")},
            "DATASET_VERSION_NOT_FOUND",
        ),
    ):
        with pytest.raises(MeshError) as caught:
            coordinator.start(**changes)  # type: ignore[arg-type]
        assert caught.value.reason == reason
        assert caught.value.field.startswith("spec.")
    assert coordinator.jobs.count() == {}
