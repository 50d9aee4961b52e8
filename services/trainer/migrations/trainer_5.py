"""Adds a column for the noise of private runs, which their specs may leave to the trainer."""

import sqlalchemy as sa
from alembic import op

revision = "trainer_5"
down_revision = "trainer_4"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column. An existing private run states its noise in its spec."""
    op.add_column("runs", sa.Column("noise_multiplier", sa.Double(), nullable=True))
