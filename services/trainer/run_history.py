"""The history of a run: events, numbered without gaps. The last event of an ended run is the run's final state.

While the run's job has a handler, only the handler that holds the job's lease adds events. An event gets the next
sequence number in the transaction that stores the event.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from common.database import now_us
from common.jobs import JobError, JobState
from services.trainer.tables import RunEventRow, RunRow

EVENTS_PER_READ = 256


@dataclass(frozen=True)
class RunEvent:
    """One event. `kind` names a oneof field of the proto message RunEvent; `payload` holds the values of that field."""

    sequence: int
    time_us: int
    kind: str
    payload: Mapping[str, Any]

    @property
    def closes(self) -> bool:
        """Whether this is the last event of the history."""
        return self.kind == "state" and JobState[self.payload["state"]].final


def final_state(state: JobState, error: JobError | None = None) -> tuple[str, dict[str, Any]]:
    """Returns the kind and payload of the event that ends the history of a run."""
    return "state", {"state": state.name, **({"error": asdict(error)} if error else {})}


def append_events(session: Session, row: RunRow, events: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    """Adds events, given as pairs of kind and payload, to a run's history."""
    for kind, payload in events:
        row.num_events += 1
        session.add(
            RunEventRow(
                tenant=row.tenant,
                run_id=row.run_id,
                sequence=row.num_events,
                time_us=now_us(),
                kind=kind,
                payload=json.dumps(dict(payload)),
            )
        )


def read_events(session: Session, tenant: str, run_id: str, *, after: int, kind: str = "") -> Sequence[RunEvent]:
    """Returns up to EVENTS_PER_READ events after a sequence number; if `kind` is set, only events of that kind."""
    query = _events(tenant, run_id, kind).where(RunEventRow.sequence > after)
    rows = session.scalars(query.order_by(RunEventRow.sequence).limit(EVENTS_PER_READ))
    return [_event(row) for row in rows]


def last_event(session: Session, tenant: str, run_id: str, *, kind: str = "") -> RunEvent | None:
    """Returns the last event of a run or, if `kind` is set, the last event of that kind; None if there is none."""
    query = _events(tenant, run_id, kind).order_by(RunEventRow.sequence.desc())
    row = session.scalars(query.limit(1)).first()
    return _event(row) if row else None


def _events(tenant: str, run_id: str, kind: str) -> Select[RunEventRow]:
    query = select(RunEventRow).where(RunEventRow.tenant == tenant, RunEventRow.run_id == run_id)
    return query.where(RunEventRow.kind == kind) if kind else query


def _event(row: RunEventRow) -> RunEvent:
    return RunEvent(row.sequence, row.time_us, row.kind, json.loads(row.payload))
