"""The history of a run that a job executes: events, numbered without gaps. The last event is the run's final state.

While the job has a handler, only the handler that holds the job's lease adds events. An event gets the next sequence
number in the transaction that stores the event. A service has a table of events (`EventRow`) and a table of runs
with the number of each run's events (`HasHistory`).
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from sqlalchemy import Select, select
from sqlalchemy.orm import Mapped, Session, mapped_column

from common.database import Base, Database, now_us
from common.jobs.job import JobError, JobState

EVENTS_PER_READ = 256
_WATCH_POLL_S = 0.5


class EventRow(Base):
    """A row of a table of events. `kind` names the oneof field of the proto's event; `payload` is its JSON form."""

    __abstract__ = True

    tenant: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True)
    time_us: Mapped[int]
    kind: Mapped[str]
    payload: Mapped[str]


class HasHistory(Protocol):
    """The row of a run. `num_events` is the sequence number of the run's last event."""

    tenant: str
    run_id: str
    num_events: int


@dataclass(frozen=True)
class RunEvent:
    """One event. `kind` names a oneof field of the proto's event; `payload` holds the values of that field."""

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


class History:
    """The histories of a service's runs. Thread-safe; several processes may share the database.

    Args:
        database: Migrated database.
        table: Table of the events.
    """

    def __init__(self, database: Database, table: type[EventRow]) -> None:
        self._database = database
        self._table = table
        self._changed = threading.Condition()
        self._num_changes = 0

    def append(self, session: Session, row: HasHistory, events: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
        """Adds events, given as pairs of kind and payload, to a run's history. Call `wake` after the commit."""
        for kind, payload in events:
            row.num_events += 1
            session.add(
                self._table(
                    tenant=row.tenant,
                    run_id=row.run_id,
                    sequence=row.num_events,
                    time_us=now_us(),
                    kind=kind,
                    payload=json.dumps(dict(payload)),
                )
            )

    def read(self, session: Session, tenant: str, run_id: str, *, after: int, kind: str = "") -> Sequence[RunEvent]:
        """Returns up to EVENTS_PER_READ events after a sequence number; if `kind` is set, only events of that kind."""
        query = self._events(tenant, run_id, kind).where(self._table.sequence > after)
        rows = session.scalars(query.order_by(self._table.sequence).limit(EVENTS_PER_READ))
        return [_event(row) for row in rows]

    def last(self, session: Session, tenant: str, run_id: str, *, kind: str = "") -> RunEvent | None:
        """Returns the last event of a run or, if `kind` is set, the last event of that kind; None if there is none."""
        query = self._events(tenant, run_id, kind).order_by(self._table.sequence.desc())
        row = session.scalars(query.limit(1)).first()
        return _event(row) if row else None

    def last_state(self, session: Session, tenant: str, run_id: str) -> str:
        """Returns the name of the last state in the history of a run."""
        last = self.last(session, tenant, run_id, kind="state")
        assert last is not None, "the history of a run begins with its state"
        return str(last.payload["state"])

    def close(self, session: Session, row: HasHistory, state: JobState, error: JobError | None) -> None:
        """Adds the final state of an ended job, unless the history has one.

        A run that is cancelled while it is pending has no handler that could add it.
        """
        last = self.last(session, row.tenant, row.run_id)
        assert last is not None, "the history of a run begins with its state"
        if not last.closes:
            self.append(session, row, [final_state(state, error)])

    def watch(
        self,
        tenant: str,
        run_id: str,
        *,
        after: int,
        stop: threading.Event,
        has_ended: Callable[[], bool],
        stored_only: bool = False,
    ) -> Iterator[RunEvent]:
        """Yields the events after a sequence number, then new events, until the run ends or `stop` is set.

        Args:
            tenant: Tenant that owns the run.
            run_id: Id of the run.
            after: Sequence number; only later events are yielded.
            stop: Ends the iteration when it is set.
            has_ended: Returns whether the run's job has ended; if so, it has closed the history.
            stored_only: Whether to end after the events that are stored already.
        """
        has_ended()
        while not stop.is_set():
            num_changes = self.num_changes
            events = self._stored(tenant, run_id, after)
            for event in events:
                yield event
                after = event.sequence
                if event.closes:
                    return
            if not events and stored_only:
                return
            if not events:
                self.wait(num_changes)
                if has_ended() and not self._stored(tenant, run_id, after):
                    return  # the caller has already seen the last event

    @property
    def num_changes(self) -> int:
        """Number of calls of `wake` so far. A watcher reads it before it looks for events, and passes it to `wait`."""
        with self._changed:
            return self._num_changes

    def wake(self) -> None:
        """Notifies the watchers in this process of new events. Watchers in other processes poll."""
        with self._changed:
            self._num_changes += 1
            self._changed.notify_all()

    def wait(self, num_changes: int) -> None:
        """Waits until `wake` has been called since `num_changes` was read, but at most half a second."""
        with self._changed:
            self._changed.wait_for(lambda: self._num_changes != num_changes, _WATCH_POLL_S)

    def _stored(self, tenant: str, run_id: str, after: int) -> Sequence[RunEvent]:
        with self._database.snapshot() as session:
            return self.read(session, tenant, run_id, after=after)

    def _events(self, tenant: str, run_id: str, kind: str) -> Select[EventRow]:
        query = select(self._table).where(self._table.tenant == tenant, self._table.run_id == run_id)
        return query.where(self._table.kind == kind) if kind else query


def _event(row: EventRow) -> RunEvent:
    return RunEvent(row.sequence, row.time_us, row.kind, json.loads(row.payload))
