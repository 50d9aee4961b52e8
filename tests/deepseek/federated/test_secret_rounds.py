"""Rounds with a privacy budget: their noise, and what stays secret."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from common.errors import FailedPrecondition
from deepseek.federated import private_mean
from deepseek.federated.arrays import Arrays, from_bytes
from deepseek.federated.collector import Collector
from deepseek.federated.private_mean import clip_to_grid
from deepseek.federated.reported_release import figures_of
from deepseek.federated.rounds import Round, RoundRecord, RoundState
from deepseek.federated.run_plan import RunPrivacy, Sampling
from deepseek.privacy.releases import Release
from tests.deepseek.federated.private_plans import EXAMPLES, OF_EXAMPLES
from tests.deepseek.federated.simulated_nodes import MODEL, changed, scaled, silent
from tests.deepseek.federated.simulation import BUDGET, POISSON, PRIVACY, RUN, Federation


def test_a_secret_round_with_an_empty_cohort_releases_noise() -> None:
    federation = Federation(
        4,
        num_rounds=1,
        sampling=Sampling("poisson", rate=1e-9),
        quorum=0,
        privacy=replace(PRIVACY, release=Release(1.0, 1e-9)),
    )
    released = federation.run()
    assert released.cohort == ()
    assert len(federation.ledger.debits) == 1
    assert from_bytes(federation.model)["bias"].tolist() != MODEL["bias"].tolist()


def test_a_secret_round_with_members_that_do_not_reply_is_released_all_the_same() -> None:
    federation = Federation(
        4,
        num_rounds=1,
        sampling=Sampling("poisson", rate=0.9),
        quorum=3,
        privacy=replace(PRIVACY, release=Release(1.0, 0.9)),
    )
    federation.engine.behaviours = dict.fromkeys(federation.nodes, silent)
    released = federation.run()
    assert released.attempt == 1
    assert not released.audit.counted


def test_the_quorum_of_a_secret_round_is_checked_before_the_cohort_is_drawn() -> None:
    federation = Federation(
        4,
        sampling=Sampling("poisson", rate=0.9),
        quorum=3,
        max_retries=1,
        privacy=replace(PRIVACY, release=Release(1.0, 0.9)),
    )
    federation.engine.offline = {"SHA256:a", "SHA256:b"}
    federation.members = set()  # a secret cohort is drawn from all nodes of the plan
    with pytest.raises(FailedPrecondition, match="fewer than 3 nodes were online for 60 s"):
        federation.run()
    assert [(one.state, one.cohort) for one in federation.history] == [(RoundState.FAILED, ())] * 2
    assert not federation.ledger.debits


@pytest.mark.parametrize("rate", [0.5, 1.0])
def test_a_federation_whose_nodes_are_all_offline_spends_nothing(rate: float) -> None:
    privacy, sampling = replace(PRIVACY, release=Release(1.0, rate)), Sampling("poisson", rate=rate)
    federation = Federation(4, sampling=sampling, quorum=0, max_retries=1, privacy=privacy)
    federation.engine.offline = set(federation.nodes)
    with pytest.raises(FailedPrecondition, match="no node was online for 60 s") as caught:
        federation.run()
    assert caught.value.reason == "QUORUM_NOT_REACHED"
    assert not federation.ledger.debits
    assert not federation.publisher.shown


def test_what_is_released_about_a_secret_round_does_not_depend_on_the_cohort() -> None:
    federation = Federation(8, num_rounds=4, sampling=POISSON, privacy=PRIVACY, quorum=0)
    federation.engine.behaviours = {"SHA256:a": scaled(float("nan")), "SHA256:b": silent}
    federation.run()
    assert len({one.cohort for one in federation.history}) > 1
    for number, one in enumerate(federation.history, start=1):
        assert one.record == RoundRecord(metrics={"accuracy": 0.5}, epsilon_spent=number, epsilon_left=100 - number)
    assert any(one.audit.refusals for one in federation.history)


def test_a_secret_round_closes_at_its_deadline_whoever_was_asked() -> None:
    federation = Federation(3, num_rounds=40, sampling=POISSON, privacy=PRIVACY, quorum=0)
    federation.engine.delays = {"SHA256:a": 7.0, "SHA256:b": 40.0}
    federation.run()
    assert {len(one.cohort) for one in federation.released} == {0, 1, 2, 3}
    assert {one.audit.collect_s for one in federation.released} == {60.0}
    planned = [one.plan_time_s for one in federation.released]
    assert {after - before for before, after in pairwise(planned)} == {60.0}


def test_the_time_at_which_a_secret_round_is_collected_does_not_depend_on_who_was_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    federation = Federation(3, num_rounds=40, sampling=POISSON, privacy=PRIVACY, quorum=0)
    federation.engine.delays = {"SHA256:a": 7.0, "SHA256:b": 58.9, "SHA256:c": 59.5}

    def slow(update: Arrays, clip_norm: float) -> Any:
        federation.clock.sleep(0.5)
        return clip_to_grid(update, clip_norm)

    monkeypatch.setattr(private_mean, "clip_to_grid", slow)
    collected: list[float] = []
    original = federation.vault.put
    federation.vault.put = lambda data: collected.append(federation.clock.now) or original(data)  # type: ignore[func-returns-value,method-assign]
    federation.run()
    assert {one.audit.counted for one in federation.released} == {
        (),
        ("SHA256:a",),
        ("SHA256:b",),
        federation.nodes[:2],
    }
    planned = [one.plan_time_s for one in federation.released]
    assert {round(after - before, 6) for before, after in zip(planned, collected, strict=True)} == {60.0}


def test_a_secret_round_keeps_no_update_in_memory() -> None:
    federation = Federation(3, num_rounds=1, privacy=replace(PRIVACY, release=Release(1.0)))
    current = Round(RUN, 1, 1, RoundState.PLANNED, 0.0, federation.nodes)
    collector = Collector(federation.plan, federation.engine, federation.clock, lambda: None)
    collected = collector.collect(current, federation.vault.get(federation.plan.initial_model))
    assert [(one.update.node, dict(one.update.arrays)) for one in collected.updates] == [
        (node, {}) for node in federation.nodes
    ]


def test_a_secret_round_whose_transport_breaks_closes_at_the_same_time_whoever_was_asked() -> None:
    def closed(rate: float) -> float:
        privacy = replace(PRIVACY, release=Release(1.0, rate))
        sampling = Sampling("poisson", rate=rate)
        federation = Federation(3, num_rounds=1, sampling=sampling, privacy=privacy, quorum=0)
        federation.engine.break_at = federation.clock.now + 20
        return federation.run().audit.collect_s

    assert closed(1e-9) == closed(0.999999) > 60


def test_a_private_round_of_all_nodes_closes_when_all_have_replied() -> None:
    federation = Federation(4, num_rounds=1, privacy=replace(PRIVACY, release=Release(1.0)))
    assert federation.run().audit.collect_s < 5


def test_what_is_released_about_a_private_round_of_all_nodes_is_that_all_were_asked() -> None:
    federation = Federation(4, num_rounds=1, privacy=replace(PRIVACY, release=Release(1.0)))
    federation.engine.behaviours = {"SHA256:a": scaled(float("nan"))}
    released = federation.run()
    assert released.record == RoundRecord(num_asked=4, metrics={"accuracy": 0.5}, epsilon_spent=1, epsilon_left=99)


def test_what_is_released_about_a_round_with_private_examples_has_no_training_figures() -> None:
    federation = Federation(4, num_rounds=1, **OF_EXAMPLES)
    federation.engine.behaviours = {"SHA256:a": changed(arrays=b"", reason="BAD_DATA", error="row 3 is 'Ana, 42'")}
    record = federation.run().record
    assert (record.num_asked, record.num_counted, record.train_metrics) == (4, 3, {})
    assert [(refusal.reason, refusal.message) for refusal in record.refusals] == [("NO_UPDATE", "")]
    assert federation.ledger.releases == [EXAMPLES.release]


@pytest.mark.parametrize(
    "figures",
    [
        figures_of(Release(1.0, 0.01, 101)),
        figures_of(Release(0.99, 0.01, 100)),
        figures_of(Release(1.0, 0.011, 100)),
        {**figures_of(Release(1.0, 0.01, 100)), "dp_steps": float("nan")},
        {"loss": 0.5},
    ],
)
def test_an_update_that_costs_more_than_is_debited_does_not_count(figures: dict[str, float]) -> None:
    without = Federation(3, num_rounds=1, **OF_EXAMPLES)
    without.run()
    federation = Federation(4, num_rounds=1, **OF_EXAMPLES)
    federation.engine.behaviours = {"SHA256:d": changed(metrics=figures)}
    released = federation.run()
    assert [(one.node, one.reason) for one in released.record.refusals] == [("SHA256:d", "NOT_AS_DEBITED")]
    assert released.audit.refusals[0].message.startswith(("the node", "the noise", "the sampling"))
    assert released.record.num_counted == 3
    assert federation.model == without.model
    assert federation.ledger.releases == [EXAMPLES.release]


def test_a_node_that_released_less_than_is_debited_counts() -> None:
    federation = Federation(2, num_rounds=1, **OF_EXAMPLES)
    federation.engine.behaviours = {"SHA256:a": changed(metrics=figures_of(Release(1.5, 0.005, 50)))}
    assert federation.run().record.num_counted == 2


def test_with_private_examples_all_nodes_have_equal_weights() -> None:
    def model(num_examples: int) -> bytes:
        federation = Federation(2, num_rounds=1, **OF_EXAMPLES)
        federation.engine.behaviours = {"SHA256:a": changed(num_examples=num_examples)}
        federation.run()
        return federation.model

    assert model(1) == model(1000)


def test_a_private_mean_is_noised_and_divided_by_a_public_constant() -> None:
    """Over many rounds, the noise in the released models has the standard deviation sigma * C / (q * N)."""
    sigma, clip_norm, rate = 2.0, 0.5, 0.25
    privacy = RunPrivacy("client", BUDGET, Release(sigma, rate), clip_norm=clip_norm)
    federation = Federation(
        8, num_rounds=400, capacity=1000, sampling=Sampling("poisson", rate=rate), privacy=privacy, quorum=0
    )
    federation.engine.behaviours = dict.fromkeys(federation.nodes, scaled(0.0))
    federation.run()
    models = [MODEL, *(from_bytes(federation.vault.blobs[one.sealed_model]) for one in federation.released)]
    steps = np.concatenate([(new[name] - old[name]).ravel() for old, new in pairwise(models) for name in MODEL])
    # 3200 values: the relative standard error of their standard deviation is 1.25 %.
    assert np.std(steps) == pytest.approx(sigma * clip_norm / (rate * 8), rel=0.07)
    cohorts = [len(one.cohort) for one in federation.released]
    assert np.mean(cohorts) == pytest.approx(rate * 8, abs=5 * np.sqrt(8 * rate * (1 - rate) / 400))
