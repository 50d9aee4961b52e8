"""The trainer's tables. The state of a run's job is in the tables of `common.jobs`."""

from sqlalchemy import Index, text
from sqlalchemy.orm import Mapped, mapped_column

from common.database import Base
from common.jobs.history import EventRow


def _index_where(condition: str, *names: str) -> Index:
    """Returns an index over the rows that meet a condition."""
    return Index(*names, sqlite_where=text(condition), postgresql_where=text(condition))


class RunRow(Base):
    """One training run.

    `num_events` is the sequence number of the run's last event. `dropped_to` is the sequence number of the last
    checkpoint event whose checkpoint has been dropped. `best_weights` are those that were stored with `checkpoint`, or
    before it. `stale_weights` is a JSON list of weights that were the best before, to be deleted, each with the time at
    which they were replaced. `init_manifest` is the digest of the manifest of the model version from which the run
    starts. `tags` is a JSON object. Only private runs have a `noise_multiplier`: the one in their spec, or the one that
    was chosen for the epsilon in their spec. Only external runs have `parameters`, a JSON object, and `logged`, which
    maps each metric to its last step. `num_directives` is the number of directives that the run got, None without any;
    the weights of a run that got directives do not follow from its spec. New columns are nullable, because older
    releases do not write them.
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
    noise_multiplier: Mapped[float | None] = mapped_column(default=None)
    num_directives: Mapped[int | None] = mapped_column(default=None)


class RunEventRow(EventRow):
    """One event of a run's history."""

    __tablename__ = "run_events"


class DirectiveRow(Base):
    """A directive to a run.

    `number` is its place among the directives of the run, from 1. `content` is the JSON form of the directive. `ack` is
    the payload of the event that answers it, and `sequence` the number of this event; both are None until it is
    answered. `applied_step` is the step in which a resumed run repeats it; 0 if it does not; None until it is answered,
    or if an older release has answered it. Only a directive that restores a checkpoint has an `artifact`.
    """

    __tablename__ = "directives"
    __table_args__ = (
        Index("directives_by_number", "tenant", "run_id", "number", unique=True),
        Index("directives_by_step", "tenant", "run_id", "applied_step"),
        _index_where("ack IS NULL", "directives_unanswered", "tenant", "run_id", "number"),
        _index_where("artifact IS NOT NULL", "directives_restoring", "tenant", "run_id"),
    )

    tenant: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(primary_key=True)
    directive_id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int]
    content: Mapped[str]
    ack: Mapped[str | None] = mapped_column(default=None)
    sequence: Mapped[int | None] = mapped_column(default=None)
    artifact: Mapped[str | None] = mapped_column(default=None)
    applied_step: Mapped[int | None] = mapped_column(default=None)


class ExportRow(Base):
    """A finished export. The fingerprint covers the options and the exporting code."""

    __tablename__ = "exports"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(primary_key=True)
    fingerprint: Mapped[str] = mapped_column(primary_key=True)
    manifest: Mapped[str]
    metrics: Mapped[str]
