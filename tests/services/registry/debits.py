"""A budget and its debits, for the tests of the ledger."""

from common.database import PageRequest, Repeatable
from deepseek.privacy.releases import Release
from services.registry.budgets import Budgets
from services.registry.ledger import Ledger, NewDebit
from services.registry.ledger_chain import Budget, Debit

TENANT, OTHER = "default", "other"
LIMIT, DELTA = 3.0, 1e-6
ROUND = Release(2.0, 0.1)
SEALED = "ab" * 32


def create(budgets: Budgets) -> Budget:
    """Creates the budget `budgets/b` for clients."""
    return budgets.create(TENANT, "b", "federations/b", "client", LIMIT, DELTA, Repeatable("CreateBudget"))


def debit(ledger: Ledger, release: Release = ROUND, request_id: str = "", *, round: int = 1) -> Debit:
    """Debits the budget `budgets/b`."""
    new = NewDebit(release, "runs/r", round, SEALED)
    return ledger.debit(TENANT, "budgets/b", new, Repeatable("Debit", request_id, str(new).encode()))[0]


def all_debits(budgets: Budgets) -> list[Debit]:
    """Returns the debits of the budget `budgets/b`, oldest first."""
    return budgets.list_debits(TENANT, "budgets/b", PageRequest(1000))[0][::-1]
