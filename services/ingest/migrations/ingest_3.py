"""Adds quarantines to uploads. Existing uploads have none."""

import sqlalchemy as sa
from alembic import op

revision = "ingest_3"
down_revision = "ingest_2"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the columns."""
    op.add_column("uploads", sa.Column("num_quarantined", sa.BigInteger(), nullable=False, server_default="0"))
    op.add_column("uploads", sa.Column("quarantine", sa.Boolean(), nullable=False, server_default=sa.false()))
