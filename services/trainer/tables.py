"""The trainer's tables. Job state lives with the jobs (`common.jobs`); here is what makes a job a run."""

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from common.database import Base


class RunRow(Base):
    """One training run.

    `num_events` is the sequence number of its last event, `dropped_to` the one of the last checkpoint event whose
    artifact has been dropped.
    """

    __tablename__ = "runs"
    __table_args__ = (
        Index("runs_by_time", "tenant", "create_us", "run_id"),
        Index("runs_by_fingerprint", "tenant", "fingerprint"),
        Index("runs_by_job", "tenant", "job_id", unique=True),
    )

    tenant: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(primary_key=True)
    job_id: Mapped[str]
    create_us: Mapped[int]
    spec: Mapped[str]
    dataset_manifest_sha256: Mapped[str]
    fingerprint: Mapped[str]
    num_events: Mapped[int] = mapped_column(default=0)
    checkpoint: Mapped[str | None] = mapped_column(default=None)
    checkpoint_step: Mapped[int] = mapped_column(default=0)
    metrics: Mapped[str] = mapped_column(default="{}")
    train_s: Mapped[float] = mapped_column(default=0.0)
    num_threads: Mapped[int | None] = mapped_column(default=None)
    previous_checkpoint: Mapped[str | None] = mapped_column(default=None)
    dropped_to: Mapped[int | None] = mapped_column(default=None)


class RunEventRow(Base):
    """One entry of a run's history: `kind` names the oneof field of `RunEvent`, `payload` is its JSON."""

    __tablename__ = "run_events"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True)
    time_us: Mapped[int]
    kind: Mapped[str]
    payload: Mapped[str]


class ExportRow(Base):
    """A finished export: the same run, options and export code give the same files."""

    __tablename__ = "exports"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str] = mapped_column(primary_key=True)
    manifest: Mapped[str]
    metrics: Mapped[str]
