"""Debits of privacy budgets: exact, and never above the budget."""

import threading
from typing import Any

import pytest

from common.database import PageRequest, Repeatable
from common.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from deepseek.privacy.accounting import epsilon
from deepseek.privacy.releases import Release
from services.registry import ledger as registry_ledger
from services.registry.budgets import Budgets
from services.registry.ledger import Ledger, NewDebit, Verified
from services.registry.ledger_chain import Debit
from tests.services.registry.debits import DELTA, LIMIT, OTHER, ROUND, TENANT, all_debits, debit


def test_every_debit_costs_what_the_composition_costs(ledger: Ledger, budgets: Budgets) -> None:
    releases = [ROUND, ROUND, Release(3.0, 0.05, 7), Release(5.0)]
    for number, release in enumerate(releases, 1):
        made = debit(ledger, release, round=number)
        assert (made.name, made.number, made.round) == (f"budgets/b/debits/{number}", number, number)
        assert made.epsilon_spent == epsilon(releases[:number], DELTA)
    budget = budgets.get(TENANT, "budgets/b")
    assert (budget.num_debits, budget.epsilon_spent) == (4, epsilon(releases, DELTA))
    assert [found.release for found in all_debits(budgets)] == releases
    assert ledger.verify(TENANT, "budgets/b") == Verified(budget, budget.epsilon_spent, 0)


def test_a_repeated_request_is_the_same_debit(ledger: Ledger, budgets: Budgets) -> None:
    first = debit(ledger, request_id="r1")
    debit(ledger, request_id="r2", round=2)
    assert debit(ledger, request_id="r1") == first
    assert budgets.get(TENANT, "budgets/b").num_debits == 2
    with pytest.raises(AlreadyExists) as caught:
        debit(ledger, Release(9.0), request_id="r1")
    assert caught.value.reason == "REQUEST_ID_REUSED"
    assert debit(ledger) != debit(ledger)


def test_a_debit_that_was_made_is_found_again_when_the_budget_is_spent(ledger: Ledger, budgets: Budgets) -> None:
    fits = ledger.preview(TENANT, "budgets/b", ROUND).max_count
    whole = Release(ROUND.noise_multiplier, ROUND.sampling_rate, fits)
    assert debit(ledger, whole, "last") == debit(ledger, whole, "last")
    assert budgets.get(TENANT, "budgets/b").num_debits == 1


def test_a_preview_of_many_kinds_of_planned_releases_is_refused(ledger: Ledger) -> None:
    sampled = [Release(2.0 + number, 0.1) for number in range(33)]
    with pytest.raises(InvalidArgument, match="of 33 kinds; at most 32") as caught:
        ledger.preview(TENANT, "budgets/b", ROUND, sampled)
    assert (caught.value.reason, caught.value.field) == ("TOO_LARGE", "planned")
    unsampled = [Release(200.0 + number) for number in range(33)]
    assert ledger.preview(TENANT, "budgets/b", ROUND, [*unsampled, *sampled[:1] * 100]).epsilon_after > 0


def test_a_preview_does_not_delay_debits(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    began, debited = threading.Event(), threading.Event()
    max_count = registry_ledger._max_count

    def slow(*args: Any) -> int:
        began.set()
        assert debited.wait(30)
        return max_count(*args)

    monkeypatch.setattr(registry_ledger, "_max_count", slow)
    monkeypatch.setattr(registry_ledger, "_TURN_S", 5.0)
    previewed: list[int] = []
    thread = threading.Thread(target=lambda: previewed.append(ledger.preview(TENANT, "budgets/b", ROUND).max_count))
    thread.start()
    try:
        assert began.wait(30)
        assert debit(ledger).number == 1
    finally:
        debited.set()
        thread.join(30)
    assert previewed


def test_a_budget_is_spent_to_the_last_release_that_fits(ledger: Ledger, budgets: Budgets) -> None:
    preview = ledger.preview(TENANT, "budgets/b", Release(2.0, 0.1, 200))
    assert (preview.epsilon_spent, preview.fits) == (0, False)
    assert preview.epsilon_after == epsilon([Release(2.0, 0.1, 200)], DELTA) > LIMIT
    debit(ledger, Release(2.0, 0.1, preview.max_count - 2))
    with pytest.raises(FailedPrecondition) as caught:
        debit(ledger, Release(2.0, 0.1, 3), "again")
    assert (caught.value.reason, caught.value.field) == ("BUDGET_EXHAUSTED", "release")
    spent = budgets.get(TENANT, "budgets/b").epsilon_spent
    for part in (f"from {spent:.6g} to", "limit of 3 at delta 1e-06", f"({LIMIT - spent:.6g} left)", "2 more such"):
        assert part in caught.value.message
    # A refused request stores nothing, so the same request succeeds once it fits.
    assert debit(ledger, Release(2.0, 0.1, 1), "again").number == 2
    assert debit(ledger, ROUND).epsilon_spent <= LIMIT
    with pytest.raises(FailedPrecondition, match="no more such releases would fit"):
        debit(ledger, ROUND)
    assert ledger.preview(TENANT, "budgets/b", ROUND).max_count == 0


def test_a_preview_counts_releases_that_are_planned_as_if_they_were_debited(ledger: Ledger) -> None:
    planned = [Release(2.0, 0.1, 40), Release(1.5, 0.2, 3)]
    preview = ledger.preview(TENANT, "budgets/b", ROUND, planned)
    assert preview.epsilon_spent == 0
    for number, one in enumerate(planned):
        debit(ledger, one, f"p{number}")
    after = ledger.preview(TENANT, "budgets/b", ROUND)
    assert (preview.epsilon_after, preview.max_count) == (after.epsilon_after, after.max_count)
    with pytest.raises(InvalidArgument) as caught:
        ledger.preview(TENANT, "budgets/b", ROUND, [ROUND, Release(0.0)])
    assert (caught.value.reason, caught.value.field) == ("BAD_NOISE", "planned[1].noise_multiplier")
    with pytest.raises(InvalidArgument) as refused:
        ledger.preview(TENANT, "budgets/b", ROUND, [ROUND] * 1001)
    assert (refused.value.reason, refused.value.field) == ("TOO_LARGE", "planned")


def test_concurrent_repeats_are_one_debit(ledger: Ledger, budgets: Budgets) -> None:
    found: list[Debit] = []
    threads = [threading.Thread(target=lambda: found.append(debit(ledger, request_id="same"))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [found[0]] * 6
    assert budgets.get(TENANT, "budgets/b").num_debits == 1


def test_one_data_set_has_one_budget_for_each_unit(budgets: Budgets) -> None:
    call = Repeatable("CreateBudget", "r", b"x")
    made = budgets.create(TENANT, "b", "datasets/d", "client", 1.0, DELTA, call)
    assert budgets.create(TENANT, "b", "datasets/d", "client", 1.0, DELTA, call) == made
    budgets.create(TENANT, "c", "datasets/d", "example", 1.0, DELTA, Repeatable("CreateBudget"))
    budgets.create(OTHER, "b", "datasets/d", "client", 1.0, DELTA, Repeatable("CreateBudget"))
    for budget_id, dataset, reason, field in (
        ("b", "datasets/e", "BUDGET_EXISTS", "budget_id"),
        ("d", "datasets/d", "DATASET_HAS_BUDGET", "dataset"),
    ):
        with pytest.raises(AlreadyExists) as caught:
            budgets.create(TENANT, budget_id, dataset, "client", 1.0, DELTA, Repeatable("CreateBudget"))
        assert (caught.value.reason, caught.value.field) == (reason, field)
    assert [one.name for one in budgets.list_budgets(TENANT, PageRequest())[0]] == ["budgets/b", "budgets/c"]


def test_the_budgets_of_some_data_sets_are_listed(budgets: Budgets) -> None:
    for budget_id, dataset, unit, tenant in (
        ("a", "datasets/d", "client", TENANT),
        ("b", "datasets/dd", "client", TENANT),
        ("c", "datasets/d", "example", TENANT),
        ("d", "federations/f", "client", TENANT),
        ("e", "datasets/d", "client", OTHER),
    ):
        budgets.create(tenant, budget_id, dataset, unit, 1.0, DELTA, Repeatable("CreateBudget"))

    def found(*datasets: str, size: int = 0, token: str = "") -> list[str]:
        page = PageRequest(size, token)
        return [one.budget_id for one in budgets.list_budgets(TENANT, page, datasets=datasets)[0]]

    assert found("datasets/d") == ["a", "c"]
    assert found("federations/f", "datasets/d") == ["a", "c", "d"]
    assert found("datasets/none") == []
    first, token = budgets.list_budgets(TENANT, PageRequest(1), datasets=["datasets/d"])
    assert ([one.budget_id for one in first], found("datasets/d", size=1, token=token)) == (["a"], ["c"])
    for datasets, other, reason, field in (
        (("datasets/dd",), token, "BAD_PAGE_TOKEN", "page_token"),
        (("datasets/d", "d"), "", "BAD_NAME", "datasets[1]"),
        (("datasets/d",) * 11, "", "TOO_LARGE", "datasets"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            found(*datasets, token=other)
        assert (caught.value.reason, caught.value.field) == (reason, field)


@pytest.mark.parametrize(
    ("changed", "reason", "field"),
    [
        ({"budget_id": "B"}, "BAD_NAME", "budget_id"),
        ({"dataset": ""}, "BAD_NAME", "dataset"),
        ({"dataset": "d"}, "BAD_NAME", "dataset"),
        ({"dataset": f"datasets/{'x' * 300}"}, "TOO_LARGE", "dataset"),
        ({"unit": ""}, "BAD_UNIT", "unit"),
        ({"unit": "patient"}, "BAD_UNIT", "unit"),
        *(({"epsilon": value}, "BAD_EPSILON", "epsilon") for value in (0, -1, float("nan"), float("inf"), 501)),
        *(({"delta": value}, "BAD_DELTA", "delta") for value in (0, -1e-6, 1, 2, float("nan"), 1e-300)),
    ],
)
def test_a_budget_needs_valid_limits(budgets: Budgets, changed: dict[str, object], reason: str, field: str) -> None:
    fields: dict[str, Any] = {
        "budget_id": "b",
        "dataset": "datasets/d",
        "unit": "client",
        "epsilon": 1.0,
        "delta": DELTA,
    } | changed
    with pytest.raises(InvalidArgument) as caught:
        budgets.create(TENANT, **fields, call=Repeatable("CreateBudget"))
    assert (caught.value.reason, caught.value.field) == (reason, field)
    assert budgets.list_budgets(TENANT, PageRequest())[0] == []


@pytest.mark.parametrize(
    ("new", "reason", "field"),
    [
        (NewDebit(Release(0.0), "runs/r"), "BAD_NOISE", "release.noise_multiplier"),
        (NewDebit(ROUND, ""), "BAD_NAME", "run"),
        (NewDebit(ROUND, f"runs/{'x' * 300}"), "TOO_LARGE", "run"),
        (NewDebit(ROUND, "runs/r", -1), "BAD_VALUE", "round"),
        (NewDebit(ROUND, "runs/r", 1, "AB" * 32), "BAD_DIGEST", "sealed_sha256"),
    ],
)
def test_a_debit_needs_valid_values(ledger: Ledger, budgets: Budgets, new: NewDebit, reason: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        ledger.debit(TENANT, "budgets/b", new, Repeatable("Debit"))
    assert (caught.value.reason, caught.value.field) == (reason, field)
    assert all_debits(budgets) == []


def test_another_tenant_has_no_such_budget(ledger: Ledger, budgets: Budgets) -> None:
    for call in (
        lambda: ledger.debit(OTHER, "budgets/b", NewDebit(ROUND, "runs/r"), Repeatable("Debit")),
        lambda: ledger.preview(OTHER, "budgets/b", ROUND),
        lambda: ledger.verify(OTHER, "budgets/b"),
        lambda: budgets.get(OTHER, "budgets/b"),
        lambda: budgets.list_debits(OTHER, "budgets/b", PageRequest()),
    ):
        with pytest.raises(NotFound) as caught:
            call()
        assert caught.value.reason == "BUDGET_NOT_FOUND"
