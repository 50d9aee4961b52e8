"""Adds the sources of the version to uploads. Existing uploads have none."""

import sqlalchemy as sa
from alembic import op

revision = "ingest_4"
down_revision = "ingest_3"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column."""
    op.add_column("uploads", sa.Column("sources", sa.String(), nullable=False, server_default="[]"))
