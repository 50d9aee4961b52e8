"""Adds which checkpoints of a run are kept besides the last."""

import sqlalchemy as sa
from alembic import op

revision = "trainer_3"
down_revision = "trainer_2"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the columns; an existing run that continues drops all but its last two with the next checkpoint."""
    op.add_column("runs", sa.Column("previous_checkpoint", sa.String(), nullable=True))
    op.add_column("runs", sa.Column("dropped_to", sa.BigInteger(), nullable=True))
