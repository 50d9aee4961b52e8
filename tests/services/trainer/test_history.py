"""Watching the history of a run."""

import threading
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

import services.trainer
from common.database import Database
from common.jobs import JobState, history
from common.jobs.history import History, RunEvent, final_state
from services.trainer.tables import RunEventRow


class LateHistory(History):
    """A history that gets its only event after a watcher has looked for events and before it waits for more."""

    def __init__(self, database: Database) -> None:
        super().__init__(database, RunEventRow)
        self._has_event = False

    def _stored(self, tenant: str, run_id: str, after: int) -> Sequence[RunEvent]:
        found = super()._stored(tenant, run_id, after)
        if not self._has_event:
            self._has_event = True
            row = SimpleNamespace(tenant=tenant, run_id=run_id, num_events=0)
            with self._database.transaction() as session:
                self.append(session, row, [final_state(JobState.SUCCEEDED)])
            self.wake()
        return found


@pytest.mark.timeout(60)
def test_an_event_between_looking_and_waiting_is_not_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "_WATCH_POLL_S", 3600.0)
    database = Database(f"sqlite:///{tmp_path / 'trainer.db'}")
    database.migrate(Path(services.trainer.__path__[0]) / "migrations")
    watched = LateHistory(database).watch("default", "x", after=0, stop=threading.Event(), has_ended=lambda: False)
    assert [event.closes for event in watched] == [True]
    database.close()
