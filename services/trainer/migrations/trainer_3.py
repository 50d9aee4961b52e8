"""Adds columns for each run's second-to-last checkpoint, and for the last event whose checkpoint has been dropped."""

import sqlalchemy as sa
from alembic import op

revision = "trainer_3"
down_revision = "trainer_2"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the columns. An existing run deletes its old checkpoints the next time it writes one."""
    op.add_column("runs", sa.Column("previous_checkpoint", sa.String(), nullable=True))
    op.add_column("runs", sa.Column("dropped_to", sa.BigInteger(), nullable=True))
