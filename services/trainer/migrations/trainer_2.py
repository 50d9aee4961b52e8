"""Records each run's number of threads per worker."""

import sqlalchemy as sa
from alembic import op

revision = "trainer_2"
down_revision = "trainer_1"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column. An existing run gets its share of the cores the next time it starts."""
    op.add_column("runs", sa.Column("num_threads", sa.BigInteger(), nullable=True))
