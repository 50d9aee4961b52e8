"""Adds the number of threads of each worker of a run."""

import sqlalchemy as sa
from alembic import op

revision = "trainer_2"
down_revision = "trainer_1"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column; existing runs get their share of the cores when they are next started."""
    op.add_column("runs", sa.Column("num_threads", sa.BigInteger(), nullable=True))
