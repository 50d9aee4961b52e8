"""Watermarks."""

import sqlalchemy as sa
from alembic import op

revision = "registry_2"
down_revision = "registry_1"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the table."""
    op.create_table(
        "watermarks",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("watermark_id", sa.String(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("modality", sa.String(), nullable=False),
        sa.Column("model_version", sa.String(), nullable=False),
        sa.Column("key_epoch", sa.BigInteger(), nullable=False),
        sa.Column("content_sha256", sa.String(), nullable=False),
        sa.Column("content_size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("create_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "watermark_id", name="pk_watermarks"),
        sa.UniqueConstraint("tenant", "number", name="uq_watermarks_tenant_number"),
    )
    for column in ("content_sha256", "model_version"):
        op.create_index(f"ix_watermarks_tenant_{column}_number", "watermarks", ["tenant", column, "number"])
