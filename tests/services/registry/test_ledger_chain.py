"""The hash chain of a ledger: what was changed, removed, added or moved is named."""

import hashlib
import json
from pathlib import Path

import pytest
from sqlalchemy import select, text

from common.database import Database
from common.errors import DataLoss, InvalidArgument
from deepseek.privacy.accounting import epsilon
from deepseek.privacy.releases import Release
from services.registry.budgets import Budgets
from services.registry.ledger import Ledger
from services.registry.ledger_audit import AuditedDebits
from services.registry.ledger_chain import Debit
from services.registry.tables import BudgetRow, DebitRow
from tests.services.registry.debits import DELTA, LIMIT, ROUND, SEALED, TENANT, all_debits, debit


def test_the_chain_can_be_checked_without_the_registry(ledger: Ledger, budgets: Budgets) -> None:
    for number in (1, 2):
        debit(ledger, round=number)
    budget = budgets.get(TENANT, "budgets/b")
    previous = sha256(
        budget="b",
        create_us=budget.create_us,
        dataset="federations/b",
        delta=DELTA,
        epsilon=LIMIT,
        tenant=TENANT,
        unit="client",
    )
    for made in all_debits(budgets):
        assert made.previous_sha256 == previous
        previous = sha256(
            budget="b",
            count=1,
            create_us=made.create_us,
            epsilon_spent=made.epsilon_spent,
            noise_multiplier=2.0,
            number=made.number,
            previous_sha256=previous,
            round=made.number,
            run="runs/r",
            sampling_rate=0.1,
            sealed_sha256=SEALED,
            tenant=TENANT,
        )
        assert made.sha256 == previous
    assert budget.head_sha256 == previous


def sha256(**content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


SWAP = (
    "UPDATE debits SET number = 99 WHERE number = 2",
    "UPDATE debits SET number = 2 WHERE number = 3",
    "UPDATE debits SET number = 3 WHERE number = 99",
)


@pytest.mark.parametrize(
    ("statements", "first"),
    [
        (("UPDATE debits SET noise_multiplier = 20 WHERE number = 2",), "budgets/b/debits/2' was changed"),
        (("UPDATE debits SET count = 0 WHERE number = 3",), "budgets/b/debits/3' was changed"),
        (("UPDATE debits SET sampling_rate = 'none' WHERE number = 1",), "budgets/b/debits/1' was changed"),
        (("UPDATE debits SET epsilon_spent = 0.1 WHERE number = 4",), "budgets/b/debits/4' was changed"),
        (("UPDATE debits SET run = 'runs/s' WHERE number = 1",), "budgets/b/debits/1' was changed"),
        (("DELETE FROM debits WHERE number = 1",), "budgets/b/debits/1' is missing"),
        (("DELETE FROM debits WHERE number = 3",), "budgets/b/debits/3' is missing"),
        (("DELETE FROM debits WHERE number = 4",), "budgets/b/debits/4' is missing"),
        (("DELETE FROM debits",), "budgets/b/debits/1' is missing"),
        (SWAP, "budgets/b/debits/2' was changed"),
        (
            ("DELETE FROM debits WHERE number = 2", "UPDATE debits SET number = number - 1 WHERE number > 2"),
            "budgets/b/debits/2' was changed",
        ),
        (("UPDATE budgets SET epsilon = 30",), "budgets/b/debits/1' does not follow 'budgets/b'"),
        (("UPDATE budgets SET unit = 'example'",), "budgets/b/debits/1' does not follow 'budgets/b'"),
        (("UPDATE budgets SET epsilon_spent = 0",), "budgets/b' states a privacy loss of 0"),
        (("UPDATE budgets SET num_debits = 3",), "budgets/b/debits/4' was added"),
        (("UPDATE budgets SET head_sha256 = 'x'",), "budgets/b/debits/4' was changed"),
        (
            ("DELETE FROM debits", "UPDATE budgets SET num_debits = 0, epsilon_spent = 0"),
            "budgets/b' was changed",
        ),
    ],
)
def test_a_ledger_that_was_changed_is_refused(
    ledger: Ledger, database: Database, statements: tuple[str, ...], first: str
) -> None:
    for number in range(1, 5):
        debit(ledger, Release(2.0, 0.1, number), round=number)
    with database.transaction() as session:
        for statement in statements:
            session.execute(text(statement))

    for call in (
        lambda: ledger.verify(TENANT, "budgets/b"),
        lambda: ledger.preview(TENANT, "budgets/b", ROUND),
        lambda: debit(ledger),
    ):
        with pytest.raises(DataLoss) as caught:
            call()
        assert caught.value.reason == "LEDGER_TAMPERED"
        assert first in caught.value.message
    with database.snapshot() as session:
        assert session.query(DebitRow).where(DebitRow.number > 4).count() == 0


@pytest.fixture
def cut(ledger: Ledger, database: Database) -> list[Debit]:
    """The debits of a ledger whose last one was removed as the registry itself would have written it."""
    made = [debit(ledger, round=number) for number in (1, 2, 3)]
    with database.transaction() as session:
        session.delete(session.get_one(DebitRow, (TENANT, "b", 3)))
        row = session.scalars(select(BudgetRow)).one()
        row.num_debits, row.epsilon_spent, row.head_sha256 = 2, made[1].epsilon_spent, made[1].sha256
    return made


def test_a_running_registry_remembers_what_it_wrote(ledger: Ledger, cut: list[Debit]) -> None:
    for call in (lambda: debit(ledger), lambda: ledger.verify(TENANT, "budgets/b")):
        with pytest.raises(DataLoss, match="'budgets/b/debits/3' is missing"):
            call()


def test_a_caller_remembers_what_it_received(database: Database, cut: list[Debit], tmp_path: Path) -> None:
    restarted = Ledger(database, AuditedDebits(tmp_path / "audit.jsonl"))
    known = [(made.name, made.sha256) for made in cut]
    assert restarted.verify(TENANT, "budgets/b", known[:2]).budget.num_debits == 2
    with pytest.raises(DataLoss, match="'budgets/b/debits/3' is missing"):
        restarted.verify(TENANT, "budgets/b", known)
    # Another debit takes the place of the one that was removed.
    debit(restarted, round=4)
    assert restarted.verify(TENANT, "budgets/b").budget.num_debits == 3
    with pytest.raises(DataLoss, match="'budgets/b/debits/3' is not the debit that was acknowledged"):
        restarted.verify(TENANT, "budgets/b", known)


def test_a_forged_loss_is_found_by_accounting(ledger: Ledger, database: Database, tmp_path: Path) -> None:
    """The whole chain is rewritten, so that only its sum is wrong."""
    restarted = Ledger(database, AuditedDebits(tmp_path / "audit.jsonl"))
    made = debit(ledger, Release(2.0, 0.1, 5))
    forged = Debit(**(vars(made) | {"epsilon_spent": 0.01}))
    with database.transaction() as session:
        row = session.get_one(DebitRow, (TENANT, "b", 1))
        row.epsilon_spent, row.sha256 = 0.01, forged.digest()
        budget = session.scalars(select(BudgetRow)).one()
        budget.epsilon_spent, budget.head_sha256 = 0.01, forged.digest()
    with pytest.raises(DataLoss, match=r"'budgets/b' states a privacy loss of 0\.01; its debits cost"):
        restarted.verify(TENANT, "budgets/b")
    # A debit does not rely on the stored loss.
    assert debit(restarted).epsilon_spent == epsilon([Release(2.0, 0.1, 6)], DELTA)


def test_known_debits_belong_to_the_budget(ledger: Ledger) -> None:
    made = debit(ledger)
    for known, reason, field in (
        (("budgets/c/debits/1", made.sha256), "BAD_NAME", "known_debits[0].name"),
        (("budgets/b/debits/0", made.sha256), "BAD_NAME", "known_debits[0].name"),
        ((made.name, "x"), "BAD_DIGEST", "known_debits[0].sha256"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            ledger.verify(TENANT, "budgets/b", [known])
        assert (caught.value.reason, caught.value.field) == (reason, field)
    with pytest.raises(InvalidArgument, match="at most 10000"):
        ledger.verify(TENANT, "budgets/b", [(made.name, made.sha256)] * 10_001)
