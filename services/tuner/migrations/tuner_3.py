"""Adds the steps of population-based training to trials."""

import sqlalchemy as sa
from alembic import op

revision = "tuner_3"
down_revision = "tuner_2"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column. Existing trials have no such steps."""
    op.add_column("trials", sa.Column("exploits", sa.String(), nullable=True))
