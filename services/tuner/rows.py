"""Reads and writes the rows of studies, trials and measurements. Callers open the transactions."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

from sqlalchemy import Select, Table, bindparam, delete, select
from sqlalchemy.orm import Session

from common.database import Prepared, Statement, now_us
from common.errors import NotFound
from deepseek.search.study_spec import StudySpec
from deepseek.search.trials import Exploit, Trial, TrialState, is_exhausted
from services.tuner.study import Measurement, StudyView
from services.tuner.tables import MeasurementRow, StudyRow, StudyRunRow, TrialRow

if TYPE_CHECKING:
    from deepseek.search.study import Study

_NUM_STREAMED = 1000
"""Number of rows of measurements that are in memory at the same time."""

_STUDIES, _TRIALS = cast(Table, StudyRow.__table__), cast(Table, TrialRow.__table__)
_MEASURE = Statement(cast(Table, MeasurementRow.__table__).insert())
_START = Statement(_TRIALS.insert())
_OWN = (
    _TRIALS.c.tenant == bindparam("key_tenant"),
    _TRIALS.c.study_id == bindparam("key_study_id"),
    _TRIALS.c.number == bindparam("key_number"),
)
_KEY_COLUMNS = ("tenant", "study_id", "number", "parameters", "start_us", "start_sequence")
"""Columns that never change after a trial has started."""
_CHANGE = Statement(
    _TRIALS.update()
    .where(*_OWN)
    .values({one: bindparam(one.name) for one in _TRIALS.c if one.name not in _KEY_COLUMNS})
)
_POSITION = Statement(
    select(_STUDIES.c.uid, _STUDIES.c.sequence).where(
        _STUDIES.c.tenant == bindparam("key_tenant"), _STUDIES.c.study_id == bindparam("key_study_id")
    )
)
_COUNTING = (
    _STUDIES.update()
    .where(
        _STUDIES.c.tenant == bindparam("key_tenant"),
        _STUDIES.c.study_id == bindparam("key_study_id"),
        _STUDIES.c.uid == bindparam("key_uid"),
        _STUDIES.c.sequence == bindparam("key_sequence"),
    )
    .values(sequence=bindparam("sequence"))
)
_COUNT = Statement(_COUNTING)
_ADVANCE = Statement(
    _COUNTING.values(
        stopped=bindparam("stopped"),
        attributes=bindparam("attributes"),
        num_trials=_STUDIES.c.num_trials + bindparam("num_started"),
        num_ended=_STUDIES.c.num_ended + bindparam("num_stopped"),
    )
)


@dataclass(frozen=True)
class Progress:
    """How far a study is.

    Attributes:
        uid: Uid of the study.
        sequence: Number of changes.
        is_idle: Whether no trial is active.
        is_over: Whether, in addition, none will be suggested, unless the algorithm is asked again.
    """

    uid: str
    sequence: int
    is_idle: bool
    is_over: bool


def read_progress(session: Session, tenant: str, study_id: str, *, field: str = "name") -> Progress:
    """Returns how far a study is.

    Raises:
        NotFound: STUDY_NOT_FOUND.
    """
    row = _study_row(session, tenant, study_id, field)
    is_idle = row.num_ended == row.num_trials
    is_over = is_idle and (
        row.stopped or is_exhausted(json.loads(row.attributes)) or row.num_trials >= _max_trials(row.spec)
    )
    return Progress(row.uid, row.sequence, is_idle, is_over)


@lru_cache(maxsize=64)
def _max_trials(spec: str) -> int:
    return int(json.loads(spec)["max_trials"])


def _study_row(session: Session, tenant: str, study_id: str, field: str) -> StudyRow:
    row = session.get(StudyRow, (tenant, study_id))
    if row is None:
        message = f"studies/{study_id} does not exist; ListStudies returns the existing ones"
        raise NotFound("STUDY_NOT_FOUND", message, field=field)
    return row


def read_study(session: Session, tenant: str, study_id: str, *, field: str = "name") -> StudyView:
    """Returns a study.

    Raises:
        NotFound: STUDY_NOT_FOUND.
    """
    return study_of(_study_row(session, tenant, study_id, field))


def study_of(row: StudyRow) -> StudyView:
    """Returns the study of a row."""
    return StudyView(
        row.study_id,
        row.uid,
        StudySpec.from_json(json.loads(row.spec)),
        row.stopped,
        row.num_trials,
        row.num_ended,
        row.create_us,
        row.sequence,
    )


def read_attributes(session: Session, tenant: str, study_id: str) -> dict[str, Any]:
    """Returns what the algorithm has stored with an existing study."""
    found: dict[str, Any] = json.loads(session.get_one(StudyRow, (tenant, study_id)).attributes)
    return found


def trials_of(tenant: str, study_id: str) -> Select[TrialRow]:
    """Returns a query for the trials of a study."""
    return select(TrialRow).where(TrialRow.tenant == tenant, TrialRow.study_id == study_id)


def trial_of(row: TrialRow) -> Trial:
    """Returns the trial of a row."""
    return Trial(
        number=row.number,
        parameters=json.loads(row.parameters),
        client_id=row.client_id,
        start_us=row.start_us,
        start_sequence=row.start_sequence,
        sequence=row.sequence,
        state=TrialState(row.state),
        metrics=json.loads(row.metrics),
        feasible=row.feasible,
        failure_reason=row.failure_reason,
        failure_message=row.failure_message,
        last_step=row.last_step,
        last_metrics=json.loads(row.last_metrics),
        end_us=row.end_us,
        end_sequence=row.end_sequence,
        attributes=json.loads(row.attributes),
        run=row.run or "",
        exploits=tuple(Exploit(**one) for one in json.loads(row.exploits or "[]")),
    )


def read_trial(session: Session, tenant: str, study_id: str, number: int) -> Trial:
    """Returns a trial.

    Raises:
        NotFound: STUDY_NOT_FOUND or TRIAL_NOT_FOUND.
    """
    row = session.get(TrialRow, (tenant, study_id, number))
    if row is None:
        read_study(session, tenant, study_id)
        message = f"there is no trial {number}; ListTrials returns the trials"
        raise NotFound("TRIAL_NOT_FOUND", message, field="name")
    return trial_of(row)


def measurements_of(tenant: str, study_id: str, number: int) -> Select[MeasurementRow]:
    """Returns a query for the measurements of a trial."""
    return select(MeasurementRow).where(
        MeasurementRow.tenant == tenant, MeasurementRow.study_id == study_id, MeasurementRow.number == number
    )


def measurement_of(row: MeasurementRow) -> Measurement:
    """Returns the measurement of a row."""
    return Measurement(row.step, json.loads(row.metrics), row.create_us)


def read_metrics(session: Session, tenant: str, study_id: str, number: int, step: int) -> Mapping[str, float] | None:
    """Returns the metrics that were measured at a step of a trial; None if nothing was measured."""
    row = session.get(MeasurementRow, (tenant, study_id, number, step))
    return None if row is None else json.loads(row.metrics)


def read_changed(session: Session, tenant: str, study_id: str, after: int) -> list[Trial]:
    """Returns the trials that changed after a sequence number, by number."""
    query = trials_of(tenant, study_id).where(TrialRow.sequence > after).order_by(TrialRow.number)
    return [trial_of(row) for row in session.scalars(query)]


def read_measured(
    session: Session, tenant: str, study_id: str, metric: str, after: int
) -> dict[int, dict[int, float | None]]:
    """Returns the values of a metric, in all measurements of the trials that changed after a sequence number.

    The rows are read one after the other, because all metrics of a long study may not fit in memory.

    Returns:
        Values by number of the trial and step; None for a measurement without this metric.
    """
    changed = select(TrialRow.number).where(
        TrialRow.tenant == tenant, TrialRow.study_id == study_id, TrialRow.sequence > after
    )
    query = select(MeasurementRow.number, MeasurementRow.step, MeasurementRow.metrics).where(
        MeasurementRow.tenant == tenant, MeasurementRow.study_id == study_id, MeasurementRow.number.in_(changed)
    )
    found: dict[int, dict[int, float | None]] = {}
    for number, step, metrics in session.execute(query.execution_options(yield_per=_NUM_STREAMED)):
        found.setdefault(number, {})[step] = json.loads(metrics).get(metric)
    return found


def is_at(
    first: Callable[[Statement, Mapping[str, Any]], tuple[Any, ...] | None],
    tenant: str,
    study_id: str,
    uid: str,
    sequence: int,
) -> bool:
    """Returns whether a study exists with this uid and sequence number.

    Args:
        first: Executes a prepared query; see `Prepared.first`.
        tenant: Tenant that owns the study.
        study_id: Id of the study.
        uid: The uid.
        sequence: The sequence number.
    """
    return first(_POSITION, {"key_tenant": tenant, "key_study_id": study_id}) == (uid, sequence)


def advance(
    prepared: Prepared,
    tenant: str,
    study_id: str,
    uid: str,
    before: int,
    study: "Study",
    *,
    num_started: int,
    num_ended: int,
    only_sequence: bool,
) -> bool:
    """Changes the row of a study, unless another process has changed the study in the meantime.

    Args:
        prepared: Write transaction.
        tenant: Tenant that owns the study.
        study_id: Id of the study.
        uid: Uid of the study.
        before: Sequence number before the change.
        study: The study after the change.
        num_started: Number of trials that the change starts.
        num_ended: Number of trials that the change ends.
        only_sequence: Whether nothing but the sequence number changes.

    Returns:
        Whether the row was changed.
    """
    values = {
        "key_tenant": tenant,
        "key_study_id": study_id,
        "key_uid": uid,
        "key_sequence": before,
        "sequence": study.sequence,
    }
    if only_sequence:
        return prepared.execute(_COUNT, values) == 1
    values |= {
        "stopped": study.stopped,
        "attributes": json.dumps(study.attributes),
        "num_started": num_started,
        "num_stopped": num_ended,
    }
    return prepared.execute(_ADVANCE, values) == 1


def write_trials(prepared: Prepared, tenant: str, study_id: str, trials: Sequence[Trial], before: int) -> None:
    """Stores trials that were started or changed after a sequence number."""
    for trial in trials:
        values = _values(trial)
        if trial.start_sequence > before:
            own = {
                "tenant": tenant,
                "study_id": study_id,
                "number": trial.number,
                "parameters": json.dumps(dict(trial.parameters)),
                "start_us": trial.start_us,
                "start_sequence": trial.start_sequence,
            }
            prepared.execute(_START, {**own, **values})
        else:
            key = {"key_tenant": tenant, "key_study_id": study_id, "key_number": trial.number}
            prepared.execute(_CHANGE, {**key, **values})


def write_measurement(prepared: Prepared, tenant: str, study_id: str, number: int, measurement: Measurement) -> None:
    """Stores a measurement."""
    values = {
        "tenant": tenant,
        "study_id": study_id,
        "number": number,
        "step": measurement.step,
        "metrics": json.dumps(dict(measurement.metrics)),
        "create_us": now_us(),
    }
    prepared.execute(_MEASURE, values)


def delete_study(session: Session, tenant: str, study_id: str) -> None:
    """Deletes a study with everything that belongs to it."""
    for table in (MeasurementRow, TrialRow, StudyRunRow, StudyRow):
        session.execute(delete(table).where(table.tenant == tenant, table.study_id == study_id))


def _values(trial: Trial) -> dict[str, Any]:
    return {
        "state": trial.state.value,
        "client_id": trial.client_id,
        "metrics": json.dumps(dict(trial.metrics)),
        "feasible": trial.feasible,
        "failure_reason": trial.failure_reason,
        "failure_message": trial.failure_message,
        "last_step": trial.last_step,
        "last_metrics": json.dumps(dict(trial.last_metrics)),
        "attributes": json.dumps(dict(trial.attributes)),
        "run": trial.run or None,
        "exploits": json.dumps([asdict(one) for one in trial.exploits]) if trial.exploits else None,
        "end_us": trial.end_us,
        "end_sequence": trial.end_sequence,
        "sequence": trial.sequence,
    }
