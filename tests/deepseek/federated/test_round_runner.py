"""Rounds over a simulated federation with honest and lying nodes."""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest

from common.errors import DataLoss, FailedPrecondition, InvalidArgument
from deepseek.federated.aggregation import WeightedUpdate
from deepseek.federated.arrays import all_finite, from_bytes, shapes_of, to_bytes
from deepseek.federated.flower.engine import Task, TaskReply
from deepseek.federated.ports import Publication
from deepseek.federated.rounds import Round, RoundState
from deepseek.federated.run_plan import RunPrivacy, Sampling, UpdateLimits
from deepseek.federated.strategy import STRATEGIES, strategy_from_spec
from deepseek.privacy.releases import Release
from deepseek.training.dp_settings import DpSgd
from tests.deepseek.federated.simulated_nodes import MODEL, Behaviour, changed, honest, scaled, silent
from tests.deepseek.federated.simulation import PRIVACY, RUN, Federation


def _twice(task: Task) -> list[TaskReply]:
    return honest(task) * 2


def _foreign(task: Task) -> list[TaskReply]:
    """Replies correctly, and then to the task of another node and to one that does not exist."""
    (reply,) = honest(task)
    other = f"{task.config['round']}.1.SHA256:a"
    return [reply, replace(reply, task_id=other), replace(reply, task_id="nonsense")]


LIARS: dict[str, tuple[Behaviour, tuple[str, ...]]] = {
    "SHA256:a": (scaled(float("nan")), ("NOT_FINITE",)),
    "SHA256:b": (scaled(float("inf")), ("NOT_FINITE",)),
    "SHA256:c": (scaled(1e6), ("NORM_TOO_LARGE",)),
    "SHA256:d": (changed(arrays=b"\0" * 1_000_000), ("OVERSIZED",)),
    "SHA256:e": (changed(num_examples=2_000_000_000), ("BAD_WEIGHT",)),
    "SHA256:f": (changed(num_examples=-3), ("BAD_WEIGHT",)),
    "SHA256:g": (changed(num_examples=0), ("NO_EXAMPLES",)),
    "SHA256:h": (changed(arrays=b"garbage"), ("BAD_UPDATE",)),
    "SHA256:i": (changed(arrays=to_bytes({"weight": MODEL["weight"]})), ("BAD_UPDATE",)),
    "SHA256:j": (changed(arrays=b"", reason="BAD_DATA", error="no column 'label'"), ("CLIENT_ERROR",)),
    "SHA256:k": (changed(arrays=b"", reason="WRONG_VERSION", error="version 1; 2 is needed"), ("WRONG_VERSION",)),
    "SHA256:l": (silent, ("LATE",)),
    "SHA256:m": (silent, ("LATE",)),
    "SHA256:n": (silent, ("LATE",)),
    "SHA256:o": (_twice, ("DUPLICATE",)),
    "SHA256:p": (_foreign, ("NOT_IN_COHORT", "WRONG_ROUND")),
    "SHA256:q": (scaled(0.0), ()),
}
"""What the nodes of a federation of 30 do; those left out are honest. With three silent nodes and others that are
refused, well over 30 % of the cohort drops out."""
WITH_AN_UPDATE = ("DUPLICATE", "NOT_IN_COHORT", "WRONG_ROUND")
"""Reasons to refuse the other replies of nodes that have also sent a good update."""


@pytest.mark.parametrize(
    ("strategy", "privacy"),
    [
        ("fedavg", None),
        ("fedadam", None),
        ("trimmed_mean", None),
        ("median", None),
        ("fedavg", replace(PRIVACY, release=Release(1.0))),
        ("fedadam", replace(PRIVACY, release=Release(1.0))),
    ],
)
def test_every_round_completes_with_all_kinds_of_bad_nodes(strategy: str, privacy: RunPrivacy | None) -> None:
    federation = Federation(
        30,
        strategy=strategy_from_spec(strategy),
        privacy=privacy,
        limits=UpdateLimits(max_update_norm=100.0),
        quorum=10,
    )
    federation.engine.behaviours = {node: behaviour for node, (behaviour, _) in LIARS.items()}
    federation.run()
    assert [(one.round, one.attempt, one.state) for one in federation.history] == [
        (number, 1, RoundState.RELEASED) for number in (1, 2, 3)
    ]
    for one in federation.history:
        found = sorted((refusal.node, refusal.reason) for refusal in one.audit.refusals)
        assert found == sorted((node, reason) for node, (_, reasons) in LIARS.items() for reason in reasons)
        left_out = {node for node, (_, reasons) in LIARS.items() if not {*reasons} <= {*WITH_AN_UPDATE}}
        assert set(one.audit.counted) == set(federation.nodes) - left_out
        assert all_finite(from_bytes(federation.vault.blobs[one.sealed_model]))
    assert len(federation.ledger.debits) == (3 if privacy else 0)


@pytest.mark.parametrize("name", sorted(STRATEGIES))
def test_models_are_those_of_the_strategy_with_its_state(name: str) -> None:
    strategy = strategy_from_spec(name)
    federation = Federation(4, strategy=strategy)
    federation.run()
    model: Any = MODEL
    state = b""
    for one in federation.released:
        updates = []
        for node in federation.nodes:
            config = {"seed": federation.plan.seed, "round": one.round, "node": node}
            (reply,) = honest(Task("", 0, "fit", config, to_bytes(model), 1.0))
            updates.append(WeightedUpdate(node, from_bytes(reply.arrays), reply.num_examples))
        model, state = strategy.apply(model, strategy.combine(updates, shapes_of(model)), state)
        assert federation.vault.blobs[one.sealed_model] == to_bytes(model)
        assert one.record.train_metrics.keys() == {"loss"}


def test_refused_nodes_leave_no_trace_in_the_model() -> None:
    lying = Federation(4)
    lying.engine.behaviours = {"SHA256:a": scaled(float("nan"))}
    without = Federation(4)
    without.engine.behaviours = {"SHA256:a": silent}
    lying.run()
    without.run()
    assert lying.model == without.model
    assert from_bytes(lying.model)["bias"].tolist() != MODEL["bias"].tolist()


def test_the_duration_of_a_round_includes_its_publication(monkeypatch: pytest.MonkeyPatch) -> None:
    federation = Federation(2)
    publish = federation.publisher.publish

    def slowly(debited: Round, model: bytes, check: Callable[[], None]) -> Publication:
        assert debited.record.round_s is None
        federation.clock.sleep(20)
        return publish(debited, model, check)

    monkeypatch.setattr(federation.publisher, "publish", slowly)
    federation.run()
    assert [one.record.round_s for one in federation.released] == [21.0] * 3
    for unit, expected in (("client", None), ("example", 1.0)):
        task = {} if unit == "client" else {"fit": {"dp_sgd": asdict(DpSgd(1.0, 1.0, 10, 1.0))}}
        private = Federation(2, task=task, privacy=replace(PRIVACY, unit=unit, release=Release(1.0)))
        private.run()
        assert [one.record.round_s for one in private.released] == [expected] * 3


def test_the_order_of_arrival_does_not_change_a_bit() -> None:
    def model(delays: dict[str, float]) -> bytes:
        federation = Federation(8, strategy=strategy_from_spec("fedadam"))
        federation.engine.delays = delays
        federation.run()
        return federation.model

    random = np.random.default_rng(0)
    models = {
        model({f"SHA256:{chr(97 + i)}": float(at) for i, at in enumerate(random.permutation(8))}) for _ in range(20)
    }
    assert len(models) == 1


def test_nodes_get_what_they_need_to_repeat_their_work() -> None:
    task = {"recipe": {"model": "cnn"}, "fit": {"local_epochs": 2}}
    federation = Federation(1, num_rounds=1, seed=3, task=task, strategy=strategy_from_spec("fedprox"))
    federation.run()
    assert federation.engine.configs == [
        {
            "recipe": {"model": "cnn"},
            "fit": {"local_epochs": 2},
            "run": RUN,
            "round": 1,
            "seed": 0,
            "node": "SHA256:a",
        }
    ]


def test_a_round_below_quorum_is_repeated_and_then_the_run_fails() -> None:
    federation = Federation(4, quorum=3, max_retries=2)
    federation.engine.offline = {"SHA256:a", "SHA256:b"}
    with pytest.raises(FailedPrecondition, match="2 updates counted, and the quorum is 3") as caught:
        federation.run()
    assert (caught.value.reason, caught.value.field) == ("QUORUM_NOT_REACHED", "quorum")
    assert [(one.round, one.attempt, one.state) for one in federation.history] == [
        (1, attempt, RoundState.FAILED) for attempt in (1, 2, 3)
    ]
    assert federation.clock.now == pytest.approx(1_000_000 + 3 * 60)
    assert not federation.publisher.shown
    last = federation.history[-1].record
    assert (last.num_asked, last.num_counted) == (4, 2)
    assert [refusal.node for refusal in last.refusals] == ["SHA256:a", "SHA256:b"]


@pytest.mark.parametrize("sampling", [Sampling(), Sampling("uniform", num_nodes=2), Sampling("poisson", rate=1.0)])
def test_a_removed_node_is_not_waited_for(sampling: Sampling) -> None:
    federation = Federation(4, sampling=sampling)
    federation.members = {"SHA256:b", "SHA256:c"}
    federation.engine.offline = {"SHA256:a", "SHA256:d"}
    start = federation.clock.now
    federation.run()
    assert [one.cohort for one in federation.released] == [("SHA256:b", "SHA256:c")] * 3
    assert [one.record.num_asked for one in federation.released] == [2, 2, 2]
    assert federation.clock.now < start + federation.plan.deadline_s


def test_a_run_without_any_node_left_fails_without_waiting() -> None:
    federation = Federation(2, max_retries=2)
    federation.members = set()
    start = federation.clock.now
    with pytest.raises(FailedPrecondition, match="0 updates counted"):
        federation.run()
    assert federation.clock.now == start


def test_a_round_whose_results_are_lost_again_and_again_fails_for_that_reason() -> None:
    federation = Federation(2, max_retries=1)
    federation.vault.put = lambda data: "0" * 64  # type: ignore[method-assign]
    with pytest.raises(DataLoss, match="the last time, the sealed result was lost") as caught:
        federation.run()
    assert caught.value.reason == "RESULT_LOST"


def test_a_run_whose_rounds_do_not_fit_into_memory_asks_nobody() -> None:
    federation = Federation(4, max_round_bytes=100)
    with pytest.raises(FailedPrecondition) as caught:
        federation.run()
    assert caught.value.reason == "ROUND_TOO_LARGE"
    assert not federation.history
    assert not federation.engine.done


def test_a_finished_run_has_nothing_left_to_do() -> None:
    federation = Federation(2)
    released = federation.run()
    assert federation.run() == released
    assert len(federation.history) == 3


def test_plans_are_checked_before_anything_happens() -> None:
    federation = Federation(4, strategy=strategy_from_spec("median"), privacy=replace(PRIVACY, release=Release(1.0)))
    with pytest.raises(InvalidArgument, match="median"):
        federation.run()
    assert not federation.history
