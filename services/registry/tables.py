"""The registry's tables. Every row carries its tenant; times are UTC microseconds.

A series counts its versions, so the next number is known without looking at them. `migrations/` makes what is declared
here.
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
    create_us: Mapped[int]


class VersionRow(Base):
    """A version; its manifest is unique within the series, so equal content has one version."""

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
    """A figure of a version, in the order given."""

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
    """Where an alias stands."""

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
    """One move of an alias: 1, 2, 3, …"""

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
    """What the id in a mark stands for; numbered 1, 2, 3, … within the tenant, for the order of lists."""

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
    """`models/<id>/versions/<n>`; empty if no version of this registry made the content."""
    key_epoch: Mapped[int]
    content_sha256: Mapped[str]
    """Empty as long as it was not told."""
    content_size_bytes: Mapped[int]
    create_us: Mapped[int]


class LineageRow(Base):
    """An edge from what was used to what came of it, by resource name: sources outside the registry are edges too."""

    __tablename__ = "lineage"
    __table_args__ = (Index(None, "tenant", "source"),)

    tenant: Mapped[str] = mapped_column(primary_key=True)
    target: Mapped[str] = mapped_column(primary_key=True)
    source: Mapped[str] = mapped_column(primary_key=True)
    position: Mapped[int]
