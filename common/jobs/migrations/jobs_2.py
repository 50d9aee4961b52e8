"""Adds a column for the trace to which each job belongs."""

import sqlalchemy as sa
from alembic import op

revision = "jobs_2"
down_revision = "jobs_1"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column. Jobs created before this revision belong to no trace."""
    op.add_column("jobs", sa.Column("traceparent", sa.String(), nullable=True))
