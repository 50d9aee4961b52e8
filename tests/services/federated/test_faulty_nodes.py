"""One private run with every kind of faulty node: what it seals, debits and shows, with the real ledger.

Only the clock and the source of randomness are replaced, so that the cohorts and the noise can be drawn again.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from benchmarks.accounting_cases import lower_bound
from common.jobs import JobState
from deepseek.federated.arrays import from_bytes, shapes_of
from deepseek.federated.flower.engine import Task, TaskReply
from deepseek.federated.round_runner import RoundRunner
from deepseek.federated.rounds import RoundAudit
from deepseek.privacy.noise import gaussian_noise
from deepseek.privacy.releases import Release
from deepseek.privacy.sampling import poisson_sample
from protos.privacy.v1 import privacy_pb2
from services.federated import run_job
from tests.deepseek.federated.simulated_nodes import Behaviour, changed, honest, scaled, silent
from tests.services.federated.run_in_process import Coordinator

pytestmark = pytest.mark.slow

CLIP_NORM, NOISE, RATE, DELTA = 1.0, 2.0, 0.5, 1e-6
NUM_ROUNDS, DEADLINE_S = 3, 60.0
SEED = 15  # with it, the cohorts have every faulty node, and the first one has the late node
NODES = tuple(f"{number:02d}" for number in range(20))
LATE = "10"


def twice(task: Task) -> list[TaskReply]:
    """Replies, and then again with another update."""
    return [*honest(task), *scaled(50.0)(task)]


FAULTS: dict[str, tuple[Behaviour, str]] = {
    "00": (scaled(float("nan")), "NOT_FINITE"),
    "01": (scaled(float("inf")), "NOT_FINITE"),
    "02": (scaled(0.0), ""),
    "03": (scaled(1e6), ""),
    "04": (changed(arrays=b"\0" * 10_000_000), "OVERSIZED"),
    "05": (changed(num_examples=1_000_000_000), ""),
    "06": (changed(num_examples=-3), "BAD_WEIGHT"),
    "07": (twice, "DUPLICATE"),
    "08": (changed(arrays=b"garbage"), "BAD_UPDATE"),
    LATE: (honest, "LATE"),
    **dict.fromkeys(("11", "12", "13", "14", "15", "16"), (silent, "LATE")),
}
"""What faulty nodes do in a round, and why their replies are refused. 30 % of all nodes never reply."""
NOT_COUNTED = {node for node, (_, reason) in FAULTS.items() if reason not in ("", "DUPLICATE")}

Arrays = dict[str, npt.NDArray[np.float64]]


class Recorder:
    """What nodes are asked and send."""

    def __init__(self) -> None:
        self.asked: set[tuple[int, str]] = set()
        self.models: dict[int, Arrays] = {}
        self.updates: dict[tuple[int, str], Arrays] = {}

    def of(self, node: str, behaviour: Behaviour) -> Behaviour:
        """Records the work of a node. When it is asked whether it can take part, the node is honest."""

        def behave(task: Task) -> list[TaskReply]:
            if task.kind != "fit":
                return honest(task)
            number = int(task.config["round"])
            replies = behaviour(task)
            self.asked.add((number, node))
            self.models[number] = float64(from_bytes(task.arrays))
            if node not in NOT_COUNTED:
                self.updates[number, node] = float64(from_bytes(replies[0].arrays))
            return replies

        return behave


def float64(arrays: Any) -> Arrays:
    return {name: array.astype(np.float64) for name, array in arrays.items()}


def norm(arrays: Arrays) -> float:
    return float(np.sqrt(sum(np.square(array).sum() for array in arrays.values())))


def clipped(update: Arrays) -> Arrays:
    """An update scaled down to the clipping norm."""
    scale = min(1.0, CLIP_NORM / norm(update)) if norm(update) else 1.0
    return {name: array * scale for name, array in update.items()}


def minus(one: Arrays, *others: Arrays) -> Arrays:
    return {name: array - sum(other[name] for other in others) for name, array in one.items()}


@pytest.fixture
def seeded(monkeypatch: pytest.MonkeyPatch) -> Callable[[Coordinator], Random]:
    """Replaces the clock and the randomness of a coordinator; returns a copy of the source of randomness."""

    def apply(coordinator: Coordinator) -> Random:
        monkeypatch.setattr(run_job, "SystemClock", lambda: coordinator.engine.clock)
        monkeypatch.setattr(run_job, "RoundRunner", partial(RoundRunner, source=Random(SEED)))
        return Random(SEED)

    return apply


def test_faulty_nodes_change_a_private_run_by_at_most_the_clipping_norm(
    tmp_path: Path, seeded: Callable[[Coordinator], Random]
) -> None:
    recorder = Recorder()
    behaviours = {node: recorder.of(node, FAULTS.get(node, (honest, ""))[0]) for node in NODES}
    coordinator = Coordinator(tmp_path, behaviours, NODES)
    coordinator.engine.delays = {LATE: DEADLINE_S + 5}  # the reply arrives in the next round
    try:
        source = seeded(coordinator)
        unit = privacy_pb2.UNIT_CLIENT
        budget = privacy_pb2.CreateBudgetRequest(
            budget_id="clinics", dataset="federations/clinics", unit=unit, epsilon=20, delta=DELTA
        )
        coordinator.ledger.CreateBudget(budget)
        privacy = {"unit": "UNIT_CLIENT", "clip_norm": CLIP_NORM, "noise_multiplier": NOISE}
        name = coordinator.start(
            privacy={**privacy, "budget": "budgets/clinics"},
            sampling={"rate": RATE},
            num_rounds=NUM_ROUNDS,
            register_every=NUM_ROUNDS,
            deadline_s=DEADLINE_S,
        ).name
        coordinator.execute()
        run = coordinator.service.get("default", name)
        assert run.job.state is JobState.SUCCEEDED, run.job.error
        rounds = coordinator.rounds()
        assert [(one.round, one.attempt, one.state) for one in rounds] == [
            (number, 1, "RELEASED") for number in range(1, NUM_ROUNDS + 1)
        ]
        seen: set[str] = set()
        for one in rounds:
            model = recorder.models[one.round]
            cohort = poisson_sample(NODES, RATE, source)
            shapes = shapes_of(model)  # type: ignore[arg-type]
            noise = {key: gaussian_noise(shapes[key], NOISE * CLIP_NORM, source) for key in sorted(shapes)}
            assert {(one.round, node) for node in cohort} == {pair for pair in recorder.asked if pair[0] == one.round}
            after = float64(from_bytes(coordinator.store.read("default", one.sealed_model)))
            # What the coordinator has added up, apart from float32 rounding of the model.
            divisor = RATE * len(NODES)
            total = {key: (after[key] - model[key]) * divisor - noise[key] for key in model}
            parts = {node: clipped(recorder.updates[one.round, node]) for node in cohort if node not in NOT_COUNTED}
            assert norm(minus(total, *parts.values())) < 1e-3
            for node in parts:
                own = minus(total, *(part for other, part in parts.items() if other != node))
                assert norm(own) <= CLIP_NORM * 1.001
            audit = RoundAudit.from_bytes(one.audit.encode())
            assert set(audit.counted) == set(parts)
            expected = {(node, FAULTS[node][1]) for node in cohort if node in FAULTS and FAULTS[node][1]}
            found = {(refused.node, refused.reason) for refused in audit.refusals}
            # A reply of the late node may be left from the round before, or from the check before the first round.
            assert expected <= found <= expected | {(LATE, "LATE"), (LATE, "WRONG_ROUND")}
            seen |= {node for node in cohort if node in FAULTS}
        arrived_late = [
            refused.message
            for one in rounds
            for refused in RoundAudit.from_bytes(one.audit.encode()).refusals
            if refused.node == LATE and refused.message.startswith("the reply is for round")
        ]
        assert arrived_late, "the late reply has arrived while a later round was in progress"
        assert seen == set(FAULTS), "the seed draws every faulty node at least once"
        check_ledger(coordinator, name, [one.sealed_model for one in rounds])
        for event in coordinator.events("round"):
            assert (event["num_asked"], event["num_counted"], event["refusals"]) == (None, None, [])
    finally:
        coordinator.close()


def check_ledger(coordinator: Coordinator, run: str, sealed: list[str]) -> None:
    """Checks that exactly the sealed results are debited, at the epsilon of a Poisson-sampled Gaussian mechanism."""
    newest_first = coordinator.ledger.ListDebits(privacy_pb2.ListDebitsRequest(parent="budgets/clinics")).debits
    found = list(reversed(newest_first))
    assert [(one.run, one.round, one.sealed_sha256) for one in found] == [
        (run, number, digest) for number, digest in enumerate(sealed, 1)
    ]
    assert {(one.release.noise_multiplier, one.release.sampling_rate, one.release.count) for one in found} == {
        (NOISE, RATE, 1)
    }
    verified = coordinator.ledger.VerifyBudget(privacy_pb2.VerifyBudgetRequest(name="budgets/clinics"))
    least = lower_bound([Release(NOISE, RATE, len(sealed))], DELTA)
    assert least <= verified.budget.epsilon_spent <= 1.02 * least
    assert verified.epsilon_recomputed == verified.budget.epsilon_spent
