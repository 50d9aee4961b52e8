"""The tuner's tables."""

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from common.database import Base, now_us
from common.names import new_id
from deepseek.search.study_spec import StudySpec


class StudyRow(Base):
    """One study.

    `uid` differs between studies that had the same id one after the other. `spec` and `attributes` are JSON objects;
    `attributes` is what the algorithm has stored. `sequence` is the number of changes. `num_trials` and `num_ended`
    count the study's trials.
    """

    __tablename__ = "studies"
    __table_args__ = (Index("studies_by_time", "tenant", "create_us", "study_id"),)

    tenant: Mapped[str] = mapped_column(primary_key=True)
    study_id: Mapped[str] = mapped_column(primary_key=True)
    uid: Mapped[str]
    spec: Mapped[str]
    stopped: Mapped[bool]
    attributes: Mapped[str]
    sequence: Mapped[int]
    num_trials: Mapped[int]
    num_ended: Mapped[int]
    create_us: Mapped[int]


class TrialRow(Base):
    """One trial (`deepseek.search.trials.Trial`).

    `parameters`, `metrics`, `last_metrics` and `attributes` are JSON objects. Metrics may be NaN or infinite. `run` is
    the name of the training run that evaluates the trial, None without one. `exploits` is a JSON list with the steps of
    population-based training, None without any.
    """

    __tablename__ = "trials"
    __table_args__ = (Index("trials_by_change", "tenant", "study_id", "sequence"),)

    tenant: Mapped[str] = mapped_column(primary_key=True)
    study_id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str]
    client_id: Mapped[str]
    parameters: Mapped[str]
    metrics: Mapped[str]
    feasible: Mapped[bool | None]
    failure_reason: Mapped[str]
    failure_message: Mapped[str]
    last_step: Mapped[int | None]
    last_metrics: Mapped[str]
    attributes: Mapped[str]
    start_us: Mapped[int]
    end_us: Mapped[int | None]
    start_sequence: Mapped[int]
    end_sequence: Mapped[int]
    sequence: Mapped[int]
    run: Mapped[str | None] = mapped_column(default=None)
    exploits: Mapped[str | None] = mapped_column(default=None)


class MeasurementRow(Base):
    """One measurement of a trial. `metrics` is a JSON object, whose values may be NaN or infinite."""

    __tablename__ = "measurements"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    study_id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    step: Mapped[int] = mapped_column(primary_key=True)
    metrics: Mapped[str]
    create_us: Mapped[int]


class StudyRunRow(Base):
    """How RunStudy runs a study.

    `spec` is the JSON form of the spec, and `given` that of the spec as the caller sent it, without its budget.
    `seconds` is what the jobs of the study have executed together. Trials that ended before `start_sequence` do not
    count as failures of the current job.
    """

    __tablename__ = "study_runs"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    study_id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str]
    spec: Mapped[str]
    given: Mapped[str]
    seconds: Mapped[float]
    start_sequence: Mapped[int]
    end_reason: Mapped[str]


def new_study(tenant: str, study_id: str, spec: StudySpec) -> StudyRow:
    """Returns the row of a study without trials."""
    return StudyRow(
        tenant=tenant,
        study_id=study_id,
        uid=new_id(),
        spec=spec.canonical(),
        stopped=False,
        attributes="{}",
        sequence=0,
        num_trials=0,
        num_ended=0,
        create_us=now_us(),
    )
