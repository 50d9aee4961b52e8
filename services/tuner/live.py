"""The studies in memory. A change is stored in the database before its result is returned.

A study is built from the database when it is first used. Each study has a lock, so calls for one study run one after
the other. If another process has changed a study, its changes are read before the next one. If a change cannot be
stored, the copy in memory is dropped and built again. Only the newest used studies stay in memory.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TypeVar

from sqlalchemy.orm import Session

from common import deadline
from common.database import Database, PooledConnection, Prepared
from common.errors import MeshError, NotFound, Unavailable
from deepseek.search.trials import Trial
from services.tuner import rows
from services.tuner.resources import study_name
from services.tuner.study import Measurement

if TYPE_CHECKING:
    from deepseek.search.study import Study

T = TypeVar("T")

MAX_WAIT_S = 20.0
"""Seconds for which a call waits for the other calls of its study. Less than the default deadline of calls, so that the
caller sees the reason."""
NUM_SHARED = 100
"""Number of changes of a study for which this process expects that another one changes the study, too."""


@dataclass(frozen=True)
class Change:
    """What a change has changed.

    Attributes:
        trials: Trials that were started or changed.
        measurement: Measurement that was added to the only trial, if one was.
        only_trials: Whether the change concerns neither the number of trials nor what is stored with the study.
    """

    trials: Sequence[Trial] = ()
    measurement: Measurement | None = None
    only_trials: bool = False


@dataclass
class _Copy:
    """A study in memory.

    Attributes:
        shared: Number of changes that are still made as if another process changes the study at the same time.
    """

    lock: threading.Lock = field(default_factory=threading.Lock)
    uid: str = ""
    study: "Study | None" = None
    shared: int = 0


class LiveStudies:
    """The studies of all tenants. Thread-safe; several processes may share the database.

    Args:
        database: Migrated database.
        max_studies: Number of studies that are kept in memory.
        max_waiting: Number of calls that may wait at the same time for other calls of their studies. Each occupies a
            thread of the server.
        on_change: Called with tenant and id of a study after a change was stored.
    """

    def __init__(
        self, database: Database, max_studies: int, max_waiting: int, on_change: Callable[[str, str], None]
    ) -> None:
        self._database = database
        self._max_studies = max_studies
        self._on_change = on_change
        self._lock = threading.Lock()
        self._waiting = threading.BoundedSemaphore(max_waiting)
        self._copies: OrderedDict[tuple[str, str], _Copy] = OrderedDict()

    def change(
        self,
        tenant: str,
        study_id: str,
        act: "Callable[[Study], tuple[T, Change]]",
        *,
        field: str = "name",
    ) -> T:
        """Changes a study, stores the change, and returns the result of `act`.

        Args:
            tenant: Tenant that owns the study.
            study_id: Id of the study.
            act: Function that changes a study in memory; returns its result and what it has changed. It may be called
                again if another process changes the study meanwhile.
            field: Field of the request that names the study, for errors.

        Raises:
            NotFound: STUDY_NOT_FOUND.
            Unavailable: STUDY_BUSY; nothing was changed.
            MeshError: An error of `act`.
        """
        copy = self._copy(tenant, study_id)
        with self._turn(copy, study_id):
            if not copy.shared:
                study = copy.study or self._read(copy, tenant, study_id, field)
                before = study.sequence
                try:
                    result, change = act(study)
                except BaseException as error:
                    unchanged = study.sequence == before and isinstance(error, MeshError)
                    if not unchanged:
                        copy.study = None
                    if not unchanged or self._is_current(copy, tenant, study_id, before):
                        raise
                else:
                    if study.sequence == before:
                        if self._is_current(copy, tenant, study_id, before):
                            return result
                    elif self._store(copy, tenant, study_id, before, change):
                        self._on_change(tenant, study_id)
                        return result
                    else:
                        copy.study = None  # it contains a change that was not stored
                copy.shared = NUM_SHARED
            return self._change_alone(copy, tenant, study_id, act, field)

    def forget(self, tenant: str, study_id: str) -> None:
        """Drops a study from memory."""
        with self._lock:
            self._copies.pop((tenant, study_id), None)

    def forget_all(self) -> None:
        """Drops all studies from memory, e.g. after rows were imported."""
        with self._lock:
            self._copies.clear()

    @contextmanager
    def _turn(self, copy: _Copy, study_id: str) -> Iterator[None]:
        """Waits until no other call uses a study, at most until the deadline of the call.

        Raises:
            Unavailable: STUDY_BUSY.
        """
        if not copy.lock.acquire(blocking=False):
            if not self._waiting.acquire(blocking=False):
                message = f"too many calls wait for studies/{study_id} and other studies; try again"
                raise Unavailable("STUDY_BUSY", message, retry_delay_s=1)
            try:
                wait_s = deadline.within(MAX_WAIT_S) or 0.0
                if not copy.lock.acquire(timeout=wait_s):
                    message = f"studies/{study_id} has been busy with other calls for {wait_s:.1f} s; try again"
                    raise Unavailable("STUDY_BUSY", message, retry_delay_s=1)
            finally:
                self._waiting.release()
        try:
            yield
        finally:
            copy.lock.release()

    def _copy(self, tenant: str, study_id: str) -> _Copy:
        with self._lock:
            copy = self._copies.setdefault((tenant, study_id), _Copy())
            self._copies.move_to_end((tenant, study_id))
            return copy

    def _drop_oldest(self) -> None:
        with self._lock:
            while len(self._copies) > self._max_studies:
                # A call that is under way keeps its copy. If the study is used again meanwhile, there are two copies,
                # as if they were in two processes.
                self._copies.popitem(last=False)

    def _change_alone(
        self, copy: _Copy, tenant: str, study_id: str, act: "Callable[[Study], tuple[T, Change]]", field: str
    ) -> T:
        """Changes a study while no other process can: for the whole time, this one holds the write lock."""
        unchanged = False
        try:
            with self._database.transaction() as session:
                known = copy.study.sequence if copy.study is not None else 0
                study = self._load(session, copy, tenant, study_id, field)
                before = study.sequence
                copy.shared = copy.shared - 1 if before == known else NUM_SHARED
                try:
                    result, change = act(study)
                except MeshError:
                    unchanged = study.sequence == before
                    raise
                if study.sequence != before:
                    is_ours = self._write(
                        PooledConnection(session.connection()), copy, tenant, study_id, before, change
                    )
                    assert is_ours, "nobody else can write"
        except BaseException:
            if not unchanged:
                copy.study = None
            raise
        if study.sequence != before:
            self._on_change(tenant, study_id)
        return result

    def _read(self, copy: _Copy, tenant: str, study_id: str, field: str) -> "Study":
        with self._database.snapshot() as session:
            return self._load(session, copy, tenant, study_id, field)

    def _load(self, session: Session, copy: _Copy, tenant: str, study_id: str, field: str) -> "Study":
        """Returns a study as it is stored; reads only what has changed since the copy in memory was stored."""
        study = copy.study
        first = PooledConnection(session.connection()).first
        if study is not None and rows.is_at(first, tenant, study_id, copy.uid, study.sequence):
            return study
        # Imported here, because it imports Optuna, which takes a second and is not needed to start.
        from deepseek.search.study import Study

        try:
            view = rows.read_study(session, tenant, study_id, field=field)
        except NotFound:
            self.forget(tenant, study_id)  # so that unknown names do not displace studies
            raise
        copy.study = None
        if study is None or copy.uid != view.uid or study.sequence > view.sequence:
            study = Study(study_name(study_id), view.spec)
        trials = rows.read_changed(session, tenant, study_id, study.sequence)
        metric = view.spec.objectives[0].metric
        measured = rows.read_measured(session, tenant, study_id, metric, study.sequence)
        attributes = rows.read_attributes(session, tenant, study_id)
        study.catch_up(trials, measured, attributes, sequence=view.sequence, stopped=view.stopped)
        copy.uid, copy.study = view.uid, study
        self._drop_oldest()
        return study

    def _is_current(self, copy: _Copy, tenant: str, study_id: str, sequence: int) -> bool:
        return rows.is_at(self._database.first, tenant, study_id, copy.uid, sequence)

    def _store(self, copy: _Copy, tenant: str, study_id: str, before: int, change: Change) -> bool:
        """Stores a change; returns False if another process was faster."""
        try:
            with self._database.prepared() as prepared:
                return self._write(prepared, copy, tenant, study_id, before, change)
        except BaseException:
            copy.study = None
            raise

    def _write(self, prepared: Prepared, copy: _Copy, tenant: str, study_id: str, before: int, change: Change) -> bool:
        study = copy.study
        assert study is not None, "the caller has loaded it"
        is_ours = rows.advance(
            prepared,
            tenant,
            study_id,
            copy.uid,
            before,
            study,
            num_started=sum(before < trial.start_sequence for trial in change.trials),
            num_ended=sum(before < trial.end_sequence for trial in change.trials),
            only_sequence=change.only_trials,
        )
        if is_ours:
            rows.write_trials(prepared, tenant, study_id, change.trials, before)
            if change.measurement is not None:
                (trial,) = change.trials
                rows.write_measurement(prepared, tenant, study_id, trial.number, change.measurement)
        return is_ours
