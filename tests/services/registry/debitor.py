"""Debits a budget until it is killed, and prints the name and the digest of each debit that was acknowledged.

Usage: python -m tests.services.registry.debitor DATABASE_URL SCHEMA RUN
"""

import sys
from pathlib import Path

from common.database import Database, Repeatable
from deepseek.privacy.releases import Release
from services.registry.ledger import Ledger, NewDebit
from services.registry.ledger_audit import AuditedDebits


def main(url: str, schema: str, run: str) -> None:
    """Debits rounds 1, 2, 3, …"""
    ledger, number = Ledger(Database(url, schema=schema), AuditedDebits(Path("none"))), 0
    while True:
        number += 1
        new = NewDebit(Release(20.0, 0.01), run, number)
        debit, _ = ledger.debit("default", "budgets/b", new, Repeatable("Debit", f"{run}/{number}"))
        print(debit.name, debit.sha256, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
