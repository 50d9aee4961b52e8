"""Adds columns for the served file and the reason for choosing it. The next start fills them in for existing rows."""

import sqlalchemy as sa
from alembic import op

revision = "inference_2"
down_revision = "inference_1"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the columns."""
    for name in ("file_name", "variant", "mode", "reason", "host"):
        op.add_column("loaded_models", sa.Column(name, sa.String(), nullable=False, server_default=""))
