"""Deleted data sets and models."""

import sqlalchemy as sa
from alembic import op

revision = "registry_3"
down_revision = "registry_2"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column. Everything that exists is not deleted."""
    op.add_column("series", sa.Column("delete_us", sa.BigInteger(), nullable=True))
