"""Keys."""

import sqlalchemy as sa
from alembic import op

revision = "watermark_1"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the table."""
    op.create_table(
        "keys",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("modality", sa.String(), nullable=False),
        sa.Column("epoch", sa.BigInteger(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("create_us", sa.BigInteger(), nullable=False),
        sa.Column("revoke_us", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("tenant", "modality", "epoch", name="pk_keys"),
    )
