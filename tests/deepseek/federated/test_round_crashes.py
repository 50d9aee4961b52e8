"""A coordinator that dies at any point, and another one that continues, over a simulated federation."""

from collections.abc import Callable
from dataclasses import replace
from random import Random

import pytest

from deepseek.federated.rounds import Round, RoundRecord, RoundState
from deepseek.federated.run_plan import RunPrivacy, Sampling
from deepseek.federated.strategy import strategy_from_spec
from deepseek.privacy.releases import Release
from tests.deepseek.federated.private_plans import OF_EXAMPLES
from tests.deepseek.federated.simulation import BUDGET, Crash, Faults, Federation

NUM_NODES, NUM_ROUNDS = 4, 3


def _plain(**plan: object) -> Federation:
    return Federation(NUM_NODES, num_rounds=NUM_ROUNDS, **{"strategy": strategy_from_spec("fedadam"), **plan})


def _private(rate: float = 0.5) -> Federation:
    privacy = RunPrivacy("client", BUDGET, Release(1.0, rate), clip_norm=1.0)
    return Federation(
        NUM_NODES, num_rounds=NUM_ROUNDS, sampling=Sampling("poisson", rate=rate), privacy=privacy, deadline_s=3.0
    )


def _of_examples() -> Federation:
    return Federation(NUM_NODES, num_rounds=NUM_ROUNDS, **OF_EXAMPLES)


def _watched(federation: Federation) -> list[Round]:
    """Returns a list. Each round that shows watchers something about nodes before its debit is added to it."""
    found: list[Round] = []
    add, advance = federation.store.store.add, federation.store.store.advance

    def look(one: Round) -> None:
        record = replace(one.record, num_asked=None, epsilon_spent=None, epsilon_left=None)
        names = {debit.name for debit in federation.ledger.debits.values()}
        if record != RoundRecord() and one.debit not in names:
            found.append(one)

    def watched_add(new: Round) -> None:
        add(new)
        look(new)

    def watched_advance(changed: Round, *, expected: RoundState) -> None:
        advance(changed, expected=expected)
        look(changed)

    federation.store.store.add = watched_add  # type: ignore[method-assign]
    federation.store.store.advance = watched_advance  # type: ignore[method-assign]
    return found


def _points(federation: Federation) -> list[str]:
    faults = Faults()
    federation.run(faults)
    return faults.names


def test_the_points_include_every_write_send_receive_and_debit() -> None:
    assert {name.split(" ", 1)[1] for name in _points(_private(rate=0.9))} == {
        "add",
        "send",
        "receive",
        "put",
        "advance to COLLECTED",
        "debit",
        "advance to DEBITED",
        "publish",
        "advance to RELEASED",
    }


@pytest.mark.parametrize("sampling", [Sampling(), Sampling("uniform", num_nodes=2)], ids=lambda s: s.kind)
def test_a_run_that_dies_anywhere_ends_with_the_same_bytes(sampling: Sampling) -> None:
    undisturbed = _plain(sampling=sampling)
    points = _points(undisturbed)
    for crash, name in enumerate(points):
        federation = _plain(sampling=sampling)
        federation.run_through(crash)
        assert federation.model == undisturbed.model, name
        assert [one.record.train_metrics for one in federation.released] == [
            one.record.train_metrics for one in undisturbed.released
        ], name
        repeated = sum(federation.engine.done.values()) - sum(undisturbed.engine.done.values())
        assert 0 <= repeated <= len(undisturbed.history[0].cohort), name
        assert len(federation.history) == NUM_ROUNDS, name


def test_a_run_that_dies_again_and_again_ends_with_the_same_bytes() -> None:
    undisturbed = _plain()
    num_points = len(_points(undisturbed))
    random = Random(7)
    for _ in range(100):
        federation = _plain()
        crashes = [random.randrange(num_points) for _ in range(random.randint(2, 6))]
        federation.run_through(*crashes)
        assert federation.model == undisturbed.model, crashes


@pytest.mark.parametrize("make", [_private, _of_examples])
def test_nothing_private_is_shown_that_was_not_debited_before(make: Callable[[], Federation]) -> None:
    num_points = len(_points(make()))
    for crash in range(num_points):
        federation = make()
        shown_undebited: list[int] = []
        announced = _watched(federation)
        publish = federation.publisher.publish

        def checked(debited, model, check, federation=federation, publish=publish, found=shown_undebited):  # type: ignore[no-untyped-def]
            if debited.debit not in {debit.name for debit in federation.ledger.debits.values()}:
                found.append(debited.round)
            return publish(debited, model, check)

        federation.publisher.publish = checked  # type: ignore[method-assign]
        federation.run_through(crash)
        assert not shown_undebited
        assert not announced
        assert len(federation.ledger.debits) >= len({sha256 for _, sha256 in federation.publisher.shown})
        assert len(federation.released) == NUM_ROUNDS
        if federation.plan.secret:
            assert {one.sealed_model for one in federation.released} <= federation.ledger.sealed
        assert federation.plan.privacy is not None
        assert set(federation.ledger.releases) == {federation.plan.privacy.release}


@pytest.mark.parametrize("make", [_private, _of_examples])
def test_one_crash_never_debits_a_round_twice(make: Callable[[], Federation]) -> None:
    for crash in range(len(_points(make()))):
        federation = make()
        federation.run_through(crash)
        assert len(federation.ledger.debits) == NUM_ROUNDS


def test_a_collected_private_result_is_sealed_and_never_drawn_again() -> None:
    names = _points(_private())
    for crash in (i for i, name in enumerate(names) if name == "after advance to COLLECTED"):
        federation = _private()
        with pytest.raises(Crash):
            federation.run(Faults(crash))
        sealed = federation.history[-1]
        assert sealed.state is RoundState.COLLECTED
        assert not [shown for shown in federation.publisher.shown if shown[0] == sealed.round]
        federation.run()
        assert federation.released[sealed.round - 1].sealed_model == sealed.sealed_model


def test_a_planned_private_round_asks_the_same_cohort_again() -> None:
    names = _points(_private(rate=0.9))
    for crash in (i for i, name in enumerate(names) if name in ("after add", "after send", "after receive")):
        federation = _private(rate=0.9)
        with pytest.raises(Crash):
            federation.run(Faults(crash))
        planned = federation.history[-1]
        federation.run()
        assert federation.released[planned.round - 1].cohort == planned.cohort


def test_crashes_broken_links_and_slow_nodes_together_change_no_byte() -> None:
    undisturbed = _plain()
    num_points = len(_points(undisturbed))
    random = Random(11)
    for _ in range(100):
        federation = _plain()
        federation.engine.break_after = {random.randrange(1, 20) for _ in range(random.randint(1, 4))}
        federation.engine.delays = {node: random.uniform(0, 50) for node in federation.nodes}
        federation.engine.down_until = federation.clock.now + random.uniform(0, 100)
        crashes = [random.randrange(num_points) for _ in range(random.randint(0, 3))]
        federation.run_through(*crashes)
        assert federation.model == undisturbed.model
        assert all(one.attempt == 1 for one in federation.history)


def test_a_run_whose_nodes_return_during_a_retry_continues_after_a_crash_anywhere() -> None:
    def federation_with_late_nodes() -> Federation:
        federation = _plain(quorum=4, sampling=Sampling())
        federation.engine.offline = {"SHA256:a"}
        original = federation.clock.sleep

        def sleep(seconds: float) -> None:
            original(seconds)
            if federation.clock.now > 1_000_000 + 90:
                federation.engine.offline = set()

        federation.clock.sleep = sleep  # type: ignore[method-assign]
        return federation

    undisturbed = federation_with_late_nodes()
    points = _points(undisturbed)
    assert [one.attempt for one in undisturbed.history] == [1, 2, 1, 1]
    for crash, name in enumerate(points):
        federation = federation_with_late_nodes()
        federation.run_through(crash)
        assert federation.model == undisturbed.model, name
