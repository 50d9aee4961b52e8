"""Runs whose nodes protect their examples, with the registry's ledger."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from common.jobs import JobState
from deepseek.federated.flower.engine import Task, TaskReply
from protos.privacy.v1 import privacy_pb2
from protos.registry.v1 import registry_pb2
from services.federated.codec import run_to_proto
from tests.deepseek.federated.simulated_nodes import honest, scaled
from tests.services.federated.examples import model_spec
from tests.services.federated.run_in_process import FINGERPRINTS, Coordinator

pytestmark = pytest.mark.slow

BUDGET = "budgets/examples"


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    """A federation whose data have a budget for examples, and whose nodes check that it is debited first."""
    made = Coordinator(tmp_path)
    unit = privacy_pb2.UNIT_EXAMPLE
    request = privacy_pb2.CreateBudgetRequest(
        budget_id="examples", dataset="federations/clinics", unit=unit, epsilon=8, delta=1e-6
    )
    made.ledger.CreateBudget(request)

    def behave(task: Task) -> list[TaskReply]:
        if task.kind == "fit":
            assert num_debits(made) == task.config["round"], f"{task.task_id} was sent before its debit"
        return scaled(0.001)(task) if task.kind == "fit" else honest(task)

    made.engine.behaviours = dict.fromkeys(FINGERPRINTS, behave)
    yield made
    made.close()


def num_debits(coordinator: Coordinator) -> int:
    """Number of debits in the ledger."""
    return int(coordinator.ledger.GetBudget(privacy_pb2.GetBudgetRequest(name=BUDGET)).budget.num_debits)


def start(coordinator: Coordinator, **changes: Any) -> str:
    """Starts a run with 10 steps of DP-SGD per round."""
    privacy = {"unit": "UNIT_EXAMPLE", "clip_norm": 1.0, "noise_multiplier": 2.0, "budget": BUDGET, "example_rate": 0.1}
    model = model_spec(coordinator.pictures, batch_size=4)
    return coordinator.start(privacy=privacy, model=model, **changes).name


def test_each_round_is_debited_before_nodes_are_asked(coordinator: Coordinator) -> None:
    name = start(coordinator)
    coordinator.execute()
    run = coordinator.service.get("default", name)
    assert run.job.state is JobState.SUCCEEDED, run.job.error
    states = [(event["round"], event["state"]) for event in coordinator.events("round")]
    assert states == [(n, state) for n in (1, 2) for state in ("PLANNED", "DEBITED", "COLLECTED", "RELEASED")]
    debits = coordinator.ledger.ListDebits(privacy_pb2.ListDebitsRequest(parent=BUDGET)).debits
    assert [(one.round, one.run, one.sealed_sha256, one.release.count) for one in debits] == [
        (2, name, "", 10),
        (1, name, "", 10),
    ]
    shown = run_to_proto(run, coordinator.service.last_round(run))
    request = registry_pb2.GetModelVersionRequest(name=shown.last_round.model_version)
    version = coordinator.registry.GetModelVersion(request).model_version
    assert version.privacy.debit == debits[0].name
    assert version.privacy.epsilon == pytest.approx(debits[0].epsilon_spent) == shown.last_round.epsilon_spent


def test_the_debit_of_a_run_that_is_stopped_after_nodes_have_replied_is_kept(coordinator: Coordinator) -> None:
    name = start(coordinator)
    lease, reply = coordinator.claim(), coordinator.engine.behaviours["bb"]

    def stops(task: Task) -> list[TaskReply]:
        replies = reply(task)
        if task.kind == "fit":
            coordinator.service.stop("default", name)
            lease.cancelled.set()
        return replies

    coordinator.engine.behaviours = {**coordinator.engine.behaviours, "bb": stops}
    coordinator.execute(lease)
    run = coordinator.service.get("default", name)
    assert run.job.state is JobState.CANCELLED
    assert run.num_released == 0
    assert num_debits(coordinator) == 1
    last = coordinator.events("round")[-1]
    assert (last["state"], last["debit"], last["num_counted"]) == ("FAILED", f"{BUDGET}/debits/1", None)
