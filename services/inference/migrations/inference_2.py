"""Adds which file of a version is served, and why; for models loaded before, the next start determines it."""

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
