"""The trainer's tables. The state of a run's job is in the tables of `common.jobs`."""

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from common.database import Base


class RunRow(Base):
    """One training run.

    `num_events` is the sequence number of the run's last event. `dropped_to` is the sequence number of the last
    checkpoint event whose checkpoint has been dropped. `best_weights` are those that were stored with `checkpoint`, or
    before it. `stale_weights` is a JSON list of weights that were the best before, to be deleted, each with the time at
    which they were replaced. `init_manifest` is the digest of the manifest of the model version from which the run
    starts. `tags` is a JSON object. Only external runs have `parameters`, a JSON object, and `logged`, which maps each
    metric to its last step. New columns are nullable, because older releases do not write them.
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
    exportable: Mapped[bool | None] = mapped_column(default=None)
    best_step: Mapped[int | None] = mapped_column(default=None)
    best_epoch: Mapped[int | None] = mapped_column(default=None)
    best_weights: Mapped[str | None] = mapped_column(default=None)
    stale_weights: Mapped[str | None] = mapped_column(default=None)
    init_manifest: Mapped[str | None] = mapped_column(default=None)
    display_name: Mapped[str | None] = mapped_column(default=None)
    note: Mapped[str | None] = mapped_column(default=None)
    tags: Mapped[str | None] = mapped_column(default=None)
    parameters: Mapped[str | None] = mapped_column(default=None)
    logged: Mapped[str | None] = mapped_column(default=None)


class RunEventRow(Base):
    """One event of a run's history. `kind` names the oneof field of `RunEvent`; `payload` is that field as JSON."""

    __tablename__ = "run_events"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(primary_key=True)
    sequence: Mapped[int] = mapped_column(primary_key=True)
    time_us: Mapped[int]
    kind: Mapped[str]
    payload: Mapped[str]


class ExportRow(Base):
    """A finished export. The fingerprint covers the options and the exporting code."""

    __tablename__ = "exports"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str] = mapped_column(primary_key=True)
    manifest: Mapped[str]
    metrics: Mapped[str]
