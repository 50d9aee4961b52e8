"""Adds the directives to runs, and the number of directives of each run."""

import sqlalchemy as sa
from alembic import op

revision = "trainer_6"
down_revision = "trainer_5"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the table, and adds the column. An existing run got no directives."""
    op.create_table(
        "directives",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("directive_id", sa.String(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("content", sa.String(), nullable=False),
        sa.Column("ack", sa.String(), nullable=True),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        sa.Column("artifact", sa.String(), nullable=True),
        sa.PrimaryKeyConstraint("tenant", "run_id", "directive_id", name="pk_directives"),
    )
    op.create_index("directives_by_number", "directives", ["tenant", "run_id", "number"], unique=True)
    op.add_column("runs", sa.Column("num_directives", sa.BigInteger(), nullable=True))
