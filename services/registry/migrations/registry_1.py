"""Series, versions, metrics, aliases, their moves, and lineage."""

import sqlalchemy as sa
from alembic import op

revision = "registry_1"
down_revision = None
branch_labels = None
depends_on = None

_SERIES = ("tenant", "kind", "series_id")
_VERSION = (*_SERIES, "number")
_ALIAS = (*_SERIES, "alias_id")


def upgrade() -> None:
    """Creates the tables."""
    op.create_table(
        "series",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("series_id", sa.String(), nullable=False),
        sa.Column("description", sa.String(), nullable=False),
        sa.Column("num_versions", sa.BigInteger(), nullable=False),
        sa.Column("create_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(*_SERIES, name="pk_series"),
    )
    op.create_table(
        "versions",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("series_id", sa.String(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("media_type", sa.String(), nullable=False),
        sa.Column("num_samples", sa.BigInteger(), nullable=True),
        sa.Column("create_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(*_VERSION, name="pk_versions"),
        sa.UniqueConstraint(*_SERIES, "sha256", name="uq_versions_tenant_kind_series_id_sha256"),
        _refers(_SERIES, "series", "fk_versions_tenant_kind_series_id"),
    )
    op.create_table(
        "metrics",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("series_id", sa.String(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint(*_VERSION, "position", name="pk_metrics"),
        _refers(_VERSION, "versions", "fk_metrics_tenant_kind_series_id_number"),
    )
    op.create_table(
        "aliases",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("series_id", sa.String(), nullable=False),
        sa.Column("alias_id", sa.String(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("num_moves", sa.BigInteger(), nullable=False),
        sa.Column("update_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(*_ALIAS, name="pk_aliases"),
        _refers(_VERSION, "versions", "fk_aliases_tenant_kind_series_id_number"),
    )
    op.create_table(
        "alias_moves",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("series_id", sa.String(), nullable=False),
        sa.Column("alias_id", sa.String(), nullable=False),
        sa.Column("move", sa.BigInteger(), nullable=False),
        sa.Column("from_number", sa.BigInteger(), nullable=True),
        sa.Column("to_number", sa.BigInteger(), nullable=False),
        sa.Column("time_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(*_ALIAS, "move", name="pk_alias_moves"),
        _refers(_ALIAS, "aliases", "fk_alias_moves_tenant_kind_series_id_alias_id"),
    )
    op.create_table(
        "lineage",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("position", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "target", "source", name="pk_lineage"),
    )
    op.create_index("ix_lineage_tenant_source", "lineage", ["tenant", "source"])


def _refers(columns: tuple[str, ...], table: str, name: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(columns, [f"{table}.{column}" for column in columns], name=name)
