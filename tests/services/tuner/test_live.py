"""Studies in memory: how long calls wait for each other, and what they read after changes by another process."""

import threading
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import services.tuner
from common import deadline
from common.database import Database, Repeatable
from common.errors import Unavailable
from deepseek.search.study_spec import StudySpec
from deepseek.search.trials import Outcome, TrialState
from services.tuner.changes import Changes
from services.tuner.live import Change, LiveStudies
from services.tuner.studies import StudyService
from services.tuner.study import Measurement
from tests.services.tuner.specs import SPEC

MIGRATIONS = Path(services.tuner.__file__).parent / "migrations"
STUDY = "studies/s"


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(Database(f"sqlite:///{tmp_path}/tuner.db")) as database:
        database.migrate(MIGRATIONS)
        for study_id in ("s", "other"):
            StudyService(database, 8).create(
                "lab", study_id, StudySpec.from_json(SPEC), Repeatable("CreateStudy", study_id, b"")
            )
        yield database


def nothing(study: Any) -> tuple[None, Change]:
    return None, Change()


def occupied(live: LiveStudies) -> tuple[threading.Thread, threading.Event]:
    """Occupies a study, as an algorithm does that needs long, until the event is set."""
    begun, enough = threading.Event(), threading.Event()

    def act(study: Any) -> tuple[None, Change]:
        begun.set()
        assert enough.wait(60)
        return None, Change()

    thread = threading.Thread(target=lambda: live.change("lab", "s", act))
    thread.start()
    assert begun.wait(60)
    return thread, enough


def test_a_call_waits_for_a_study_no_longer_than_its_deadline(database: Database) -> None:
    live = LiveStudies(database, 8, 8, lambda *_: None)
    thread, enough = occupied(live)
    try:
        with deadline.until(time.monotonic() + 0.05), pytest.raises(Unavailable) as error:
            live.change("lab", "s", nothing)
        assert error.value.reason == "STUDY_BUSY"
        assert error.value.retry_delay_s == 1
        live.change("lab", "other", nothing)  # other studies are free
    finally:
        enough.set()
        thread.join(60)
    live.change("lab", "s", nothing)


def test_only_some_calls_may_wait_so_that_threads_remain_for_other_studies(database: Database) -> None:
    live = LiveStudies(database, 8, 2, lambda *_: None)
    thread, enough = occupied(live)
    waiting = [threading.Thread(target=lambda: live.change("lab", "s", nothing)) for _ in range(2)]
    try:
        for one in waiting:
            one.start()
        while live._waiting._value:  # type: ignore[attr-defined]
            time.sleep(0.001)
        with pytest.raises(Unavailable) as error:
            live.change("lab", "s", nothing)
        assert error.value.reason == "STUDY_BUSY"
        live.change("lab", "other", nothing)
    finally:
        enough.set()
        for one in (thread, *waiting):
            one.join(60)
    live.change("lab", "s", nothing)


def test_changes_of_another_process_are_read_and_nothing_else(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    from deepseek.search.study import Study

    original = Study.__init__

    def count(self: Study, name: str, spec: StudySpec) -> None:
        built.append(name)
        original(self, name, spec)

    monkeypatch.setattr(Study, "__init__", count)
    tuners = [StudyService(database, 8), StudyService(database, 8)]
    for number in range(1, 21):
        (view,) = tuners[number % 2].suggest("lab", STUDY, "worker", 1)
        assert view.trial.number == number
        for step in (1, 2):
            tuners[(number + step) % 2].measure("lab", f"{STUDY}/trials/{number}", Measurement(step, {"loss": 1.0}))
        outcome = Outcome(TrialState.SUCCEEDED, {"loss": 1 / number})
        tuners[(number + 1) % 2].complete("lab", f"{STUDY}/trials/{number}", outcome)
    assert len(built) <= 4  # twice per process: at first, and after its first change that met one of the other process
    fresh = StudyService(database, 8)
    (expected,) = fresh.suggest("lab", STUDY, "new", 1)
    assert expected.trial.number == 21
    for tuner in tuners:
        assert tuner.suggest("lab", STUDY, "new", 1) == [expected]


def test_a_recovery_holds_few_rows_of_measurements_in_memory(database: Database) -> None:
    studies = StudyService(database, 8)
    (view,) = studies.suggest("lab", STUDY, "worker", 1)
    with database.engine.begin() as connection:
        connection.exec_driver_sql(
            "WITH RECURSIVE steps(step) AS (SELECT 1 UNION ALL SELECT step + 1 FROM steps WHERE step < 9000) "
            "INSERT INTO measurements SELECT 'lab', 's', 1, step, ?, 0 FROM steps",
            ('{"loss": 0.5, "note": "' + "x" * 2_000 + '"}',),
        )
    restarted = StudyService(database, 8)
    (before,) = restarted.suggest("lab", "studies/other", "worker", 1)  # imports what is imported later
    tracemalloc.start()
    try:
        restarted.measure("lab", f"{STUDY}/trials/1", Measurement(9001, {"loss": 0.25}))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 9_000_000  # all rows have 18 MB, and the values that are kept have 1 MB
    study = restarted.live._copies["lab", "s"].study
    assert study is not None
    assert study._num_measurements == 9001
    assert view.trial.number == before.trial.number == 1


def test_only_the_watchers_of_a_study_are_woken() -> None:
    changes = Changes()
    with changes.watching("lab", "s") as mine, changes.watching("lab", "other") as other:
        for change in (changes.notify, changes.notify):
            change("lab", "s")
        changes.notify("another", "s")
        assert (mine.num_changes, other.num_changes) == (2, 0)
        changes.notify_all()
        assert (mine.num_changes, other.num_changes) == (3, 1)
        mine.wait(0, 60)  # does not wait, because something has changed
    assert not changes._watched
