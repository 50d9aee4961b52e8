"""Adds a column for the labels of the outputs. In existing rows, it stays empty until the model is loaded again."""

import sqlalchemy as sa
from alembic import op

revision = "inference_3"
down_revision = "inference_2"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column."""
    op.add_column("loaded_models", sa.Column("labels", sa.String(), nullable=False, server_default=""))
