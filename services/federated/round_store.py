"""Rounds in the database: implements `deepseek.federated.rounds.RoundStore`."""

import json
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, replace
from typing import Any

from sqlalchemy import select
from sqlalchemy.orm import Session

from common.database import Database
from common.errors import NotFound
from deepseek.federated.rounds import (
    Round,
    RoundAudit,
    RoundRecord,
    RoundState,
    RoundStore,
    check_added,
    check_advanced,
)
from services.federated.tables import RoundRow


def _ignore(session: Session, changed: Round) -> None:
    """Announces nothing."""


class SqlRoundStore(RoundStore):
    """The rounds of one tenant's runs. A run's id is the last segment of its name.

    Args:
        database: Migrated database.
        tenant: Tenant that owns the runs.
        transaction: Opens a transaction for a write, e.g. `Lease.transaction`, which fails if another process has taken
            over the run; by default any transaction of the database.
        announce: Called in the transaction of each write, with the round as it is stored.
    """

    def __init__(
        self,
        database: Database,
        tenant: str,
        *,
        transaction: Callable[[], AbstractContextManager[Session]] | None = None,
        announce: Callable[[Session, Round], None] = _ignore,
    ) -> None:
        self._database = database
        self._tenant = tenant
        self._transaction = transaction or database.transaction
        self._announce = announce

    def newest(self, run: str) -> Round | None:
        """See `RoundStore.newest`."""
        with self._database.snapshot() as session:
            row = self._newest(session, run)
            return _round(row, run) if row else None

    def released(self, run: str, round_number: int) -> Round | None:
        """See `RoundStore.released`."""
        query = select(RoundRow).where(
            RoundRow.tenant == self._tenant,
            RoundRow.run_id == _run_id(run),
            RoundRow.round == round_number,
            RoundRow.state == RoundState.RELEASED.name,
        )
        with self._database.snapshot() as session:
            row = session.scalars(query).first()
            return _round(row, run) if row else None

    def attempts(self, run: str, round_number: int) -> Sequence[Round]:
        """See `RoundStore.attempts`."""
        query = select(RoundRow).where(
            RoundRow.tenant == self._tenant, RoundRow.run_id == _run_id(run), RoundRow.round == round_number
        )
        with self._database.snapshot() as session:
            return [_round(row, run) for row in session.scalars(query.order_by(RoundRow.attempt))]

    def add(self, new: Round) -> None:
        """See `RoundStore.add`."""
        with self._transaction() as session:
            stored = session.get(RoundRow, self._key(new))
            if stored is not None and _round(stored, new.run) == new:
                return
            last = self._newest(session, new.run)
            check_added(new, _round(last, new.run) if last else None)
            session.add(_write(RoundRow(tenant=self._tenant, run_id=_run_id(new.run)), new))
            session.flush()
            self._announce(session, new)

    def advance(self, changed: Round, *, expected: RoundState) -> None:
        """See `RoundStore.advance`."""
        with self._transaction() as session:
            row = session.get(RoundRow, self._key(changed), with_for_update=True)
            if row is None:
                what = f"{changed.run} has no attempt {changed.attempt} at round {changed.round}"
                raise NotFound("ROUND_NOT_FOUND", what)
            stored = _round(row, changed.run)
            if stored == changed:
                return
            check_advanced(stored, changed, expected)
            _write(row, changed)
            self._announce(session, changed)

    def _key(self, one: Round) -> tuple[str, str, int, int]:
        return self._tenant, _run_id(one.run), one.round, one.attempt

    def _newest(self, session: Session, run: str) -> RoundRow | None:
        query = select(RoundRow).where(RoundRow.tenant == self._tenant, RoundRow.run_id == _run_id(run))
        return session.scalars(query.order_by(RoundRow.round.desc(), RoundRow.attempt.desc()).limit(1)).first()


def _run_id(run: str) -> str:
    return run.rpartition("/")[2]


def _write(row: RoundRow, one: Round) -> RoundRow:
    row.round, row.attempt, row.state = one.round, one.attempt, one.state.name
    row.plan_time_s = one.plan_time_s
    row.cohort = json.dumps(one.cohort)
    row.sealed_model, row.sealed_state = one.sealed_model, one.sealed_state
    row.debit, row.model_version = one.debit, one.model_version
    row.record, row.audit = one.record.to_bytes().decode(), one.audit.to_bytes().decode()
    return row


def _round(row: RoundRow, run: str) -> Round:
    return Round(
        run=run,
        round=row.round,
        attempt=row.attempt,
        state=RoundState[row.state],
        plan_time_s=row.plan_time_s,
        cohort=tuple(json.loads(row.cohort)),
        sealed_model=row.sealed_model,
        sealed_state=row.sealed_state,
        debit=row.debit,
        model_version=row.model_version,
        record=RoundRecord.from_bytes(row.record.encode()),
        audit=RoundAudit.from_bytes(row.audit.encode()),
    )


def shown(one: Round, nodes: dict[str, str]) -> dict[str, Any]:
    """Returns what every user who may see the run may see of a round, as the payload of an event.

    Args:
        one: The round. Its cohort and audit are left out.
        nodes: Resource name of each node by the fingerprint of its key.
    """
    record = asdict(replace(one.record, refusals=()))
    metrics = {
        **record.pop("metrics"),
        **{f"train_{name}": value for name, value in record.pop("train_metrics").items()},
    }
    refusals = [asdict(refusal) | {"node": nodes.get(refusal.node, refusal.node)} for refusal in one.record.refusals]
    return {
        "round": one.round,
        "attempt": one.attempt,
        "state": one.state.name,
        "model_version": one.model_version,
        "debit": one.debit,
        **record,
        "metrics": metrics,
        "refusals": refusals,
    }
