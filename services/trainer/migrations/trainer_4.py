"""Adds columns for the best epoch, initial weights, names and tags, and for external runs."""

import sqlalchemy as sa
from alembic import op

revision = "trainer_4"
down_revision = "trainer_3"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the columns. The best epoch of an existing run is unknown, so its last checkpoint is exported as before."""
    op.add_column("runs", sa.Column("exportable", sa.Boolean(), nullable=True))
    op.add_column("runs", sa.Column("best_step", sa.BigInteger(), nullable=True))
    op.add_column("runs", sa.Column("best_epoch", sa.BigInteger(), nullable=True))
    op.add_column("runs", sa.Column("best_weights", sa.String(), nullable=True))
    op.add_column("runs", sa.Column("stale_weights", sa.String(), nullable=True))
    op.add_column("runs", sa.Column("init_manifest", sa.String(), nullable=True))
    op.add_column("runs", sa.Column("display_name", sa.String(), nullable=True))
    op.add_column("runs", sa.Column("note", sa.String(), nullable=True))
    op.add_column("runs", sa.Column("tags", sa.String(), nullable=True))
    op.add_column("runs", sa.Column("parameters", sa.String(), nullable=True))
    op.add_column("runs", sa.Column("logged", sa.String(), nullable=True))
