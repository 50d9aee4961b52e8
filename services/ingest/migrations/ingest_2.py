"""Records the time of an upload's last write. Existing uploads get the current time, so that none expires early."""

import sqlalchemy as sa
from alembic import op

from common.database import now_us

revision = "ingest_2"
down_revision = "ingest_1"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column."""
    op.add_column("uploads", sa.Column("update_us", sa.BigInteger(), nullable=False, server_default="0"))
    op.execute(sa.text("UPDATE uploads SET update_us = :now").bindparams(now=now_us()))
