"""Uploads and their samples."""

import sqlalchemy as sa
from alembic import op

revision = "ingest_1"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the tables."""
    op.create_table(
        "uploads",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("upload_id", sa.String(), nullable=False),
        sa.Column("dataset", sa.String(), nullable=False),
        sa.Column("schema", sa.String(), nullable=False),
        sa.Column("num_samples", sa.BigInteger(), nullable=False),
        sa.Column("writer", sa.BigInteger(), nullable=False),
        sa.Column("deleted", sa.Boolean(), nullable=False),
        sa.Column("commit_job", sa.String(), nullable=False),
        sa.Column("registering_job", sa.String(), nullable=False),
        sa.Column("manifest", sa.String(), nullable=False),
        sa.Column("create_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "upload_id", name="pk_uploads"),
    )
    op.create_table(
        "upload_keys",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("upload_id", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "upload_id", "key", name="pk_upload_keys"),
        _belongs_to_upload("upload_keys"),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "upload_shards",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("upload_id", sa.String(), nullable=False),
        sa.Column("split", sa.String(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("size_bytes", sa.BigInteger(), nullable=False),
        sa.Column("num_samples", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "upload_id", "split", "number", name="pk_upload_shards"),
        _belongs_to_upload("upload_shards"),
    )
    op.create_table(
        "upload_chunks",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("upload_id", sa.String(), nullable=False),
        sa.Column("split", sa.String(), nullable=False),
        sa.Column("start", sa.BigInteger(), nullable=False),
        sa.Column("num_samples", sa.BigInteger(), nullable=False),
        sa.Column("num_bytes", sa.BigInteger(), nullable=False),
        sa.Column("data", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "upload_id", "split", "start", name="pk_upload_chunks"),
        _belongs_to_upload("upload_chunks"),
    )


def _belongs_to_upload(table: str) -> sa.ForeignKeyConstraint:
    return sa.ForeignKeyConstraint(
        ["tenant", "upload_id"],
        ["uploads.tenant", "uploads.upload_id"],
        name=f"fk_{table}_tenant_upload_id",
    )
