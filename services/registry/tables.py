"""The registry's tables. Every row stores its tenant; times are UTC microseconds.

The row of a series stores the number of its last version, so the next version number is known without reading the
versions, and no number is used twice. The row therefore survives the deletion of the series. `migrations/` creates the
tables.
"""

from sqlalchemy import Double, ForeignKeyConstraint, Index, UniqueConstraint
from sqlalchemy.orm import Mapped, mapped_column

from common.database import Base


class SeriesRow(Base):
    """A data set or model."""

    __tablename__ = "series"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    series_id: Mapped[str] = mapped_column(primary_key=True)
    description: Mapped[str]
    num_versions: Mapped[int]
    """Number of versions that were ever created."""
    create_us: Mapped[int]
    delete_us: Mapped[int | None] = mapped_column(default=None)
    """Time of the deletion; None while the series exists."""


class VersionRow(Base):
    """A version. Manifests are unique within a series, so no two versions of a series have the same content."""

    __tablename__ = "versions"
    __table_args__ = (
        ForeignKeyConstraint(["tenant", "kind", "series_id"], ["series.tenant", "series.kind", "series.series_id"]),
        UniqueConstraint("tenant", "kind", "series_id", "sha256"),
    )

    tenant: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    series_id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[str]
    size_bytes: Mapped[int]
    media_type: Mapped[str]
    num_samples: Mapped[int | None]
    create_us: Mapped[int]


class MetricRow(Base):
    """A metric of a version; `position` preserves the caller's order."""

    __tablename__ = "metrics"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant", "kind", "series_id", "number"],
            ["versions.tenant", "versions.kind", "versions.series_id", "versions.number"],
        ),
    )

    tenant: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    series_id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    position: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    value: Mapped[float] = mapped_column(Double)


class AliasRow(Base):
    """An alias and the version that it points to."""

    __tablename__ = "aliases"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant", "kind", "series_id", "number"],
            ["versions.tenant", "versions.kind", "versions.series_id", "versions.number"],
        ),
    )

    tenant: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    series_id: Mapped[str] = mapped_column(primary_key=True)
    alias_id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int]
    num_moves: Mapped[int]
    update_us: Mapped[int]


class AliasMoveRow(Base):
    """One move of an alias; `move` numbers the alias's moves 1, 2, 3, …"""

    __tablename__ = "alias_moves"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant", "kind", "series_id", "alias_id"],
            ["aliases.tenant", "aliases.kind", "aliases.series_id", "aliases.alias_id"],
        ),
    )

    tenant: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    series_id: Mapped[str] = mapped_column(primary_key=True)
    alias_id: Mapped[str] = mapped_column(primary_key=True)
    move: Mapped[int] = mapped_column(primary_key=True)
    from_number: Mapped[int | None]
    to_number: Mapped[int]
    time_us: Mapped[int]


class WatermarkRow(Base):
    """A watermark, identified by the id in its mark. `number` counts a tenant's watermarks: 1, 2, 3, …"""

    __tablename__ = "watermarks"
    __table_args__ = (
        UniqueConstraint("tenant", "number"),
        Index(None, "tenant", "content_sha256", "number"),
        Index(None, "tenant", "model_version", "number"),
    )

    tenant: Mapped[str] = mapped_column(primary_key=True)
    watermark_id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int]
    modality: Mapped[str]
    model_version: Mapped[str]
    """`models/<id>/versions/<n>`; empty if no version in this registry made the content."""
    key_epoch: Mapped[int]
    content_sha256: Mapped[str]
    """SHA-256 of the content; empty until the content is recorded."""
    content_size_bytes: Mapped[int]
    create_us: Mapped[int]


class LineageRow(Base):
    """An edge from a source to a version made from it, both by name. A source may belong to another service."""

    __tablename__ = "lineage"
    __table_args__ = (Index(None, "tenant", "source"),)

    tenant: Mapped[str] = mapped_column(primary_key=True)
    target: Mapped[str] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int]


class GuaranteeRow(Base):
    """The privacy guarantee of a model version."""

    __tablename__ = "guarantees"
    __table_args__ = (
        ForeignKeyConstraint(
            ["tenant", "kind", "series_id", "number"],
            ["versions.tenant", "versions.kind", "versions.series_id", "versions.number"],
        ),
    )

    tenant: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str] = mapped_column(primary_key=True)
    series_id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    epsilon: Mapped[float] = mapped_column(Double)
    delta: Mapped[float] = mapped_column(Double)
    unit: Mapped[str]
    adjacency: Mapped[str]
    sampling: Mapped[str]
    debit: Mapped[str]
    """`budgets/<id>/debits/<n>`; empty if no budget was debited."""


class BudgetRow(Base):
    """A privacy budget. It repeats the number and the digest of its last debit, so that a missing debit is detected."""

    __tablename__ = "budgets"
    __table_args__ = (UniqueConstraint("tenant", "dataset", "unit"),)

    tenant: Mapped[str] = mapped_column(primary_key=True)
    budget_id: Mapped[str] = mapped_column(primary_key=True)
    dataset: Mapped[str]
    unit: Mapped[str]
    epsilon: Mapped[float] = mapped_column(Double)
    delta: Mapped[float] = mapped_column(Double)
    num_debits: Mapped[int]
    epsilon_spent: Mapped[float] = mapped_column(Double)
    head_sha256: Mapped[str]
    create_us: Mapped[int]


class DebitRow(Base):
    """A debit of a privacy budget; `number` numbers the budget's debits 1, 2, 3, …"""

    __tablename__ = "debits"
    __table_args__ = (ForeignKeyConstraint(["tenant", "budget_id"], ["budgets.tenant", "budgets.budget_id"]),)

    tenant: Mapped[str] = mapped_column(primary_key=True)
    budget_id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    noise_multiplier: Mapped[float] = mapped_column(Double)
    sampling_rate: Mapped[float] = mapped_column(Double)
    count: Mapped[int]
    epsilon_spent: Mapped[float] = mapped_column(Double)
    """Privacy loss of this debit and all debits before it."""
    run: Mapped[str]
    round: Mapped[int]
    sealed_sha256: Mapped[str]
    create_us: Mapped[int]
    previous_sha256: Mapped[str]
    sha256: Mapped[str]
