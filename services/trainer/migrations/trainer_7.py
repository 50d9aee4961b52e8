"""Adds the step in which a resumed run repeats a directive, and indexes over the directives that are read often."""

import sqlalchemy as sa
from alembic import op

revision = "trainer_7"
down_revision = "trainer_6"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Adds the column and the indexes. Rows that have been answered keep NULL, and are read as before."""
    op.add_column("directives", sa.Column("applied_step", sa.BigInteger(), nullable=True))
    op.create_index("directives_by_step", "directives", ["tenant", "run_id", "applied_step"])
    for name, columns, condition in (
        ("directives_unanswered", ["tenant", "run_id", "number"], "ack IS NULL"),
        ("directives_restoring", ["tenant", "run_id"], "artifact IS NOT NULL"),
    ):
        where = sa.text(condition)
        op.create_index(name, "directives", columns, sqlite_where=where, postgresql_where=where)
