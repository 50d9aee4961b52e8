"""Adds what RunStudy stores: the spec and the job of each study, and the run of each trial."""

import sqlalchemy as sa
from alembic import op

revision = "tuner_2"
down_revision = "tuner_1"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the table, and adds the column. Existing trials have no run."""
    op.create_table(
        "study_runs",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("study_id", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("spec", sa.String(), nullable=False),
        sa.Column("given", sa.String(), nullable=False),
        sa.Column("seconds", sa.Double(), nullable=False),
        sa.Column("start_sequence", sa.BigInteger(), nullable=False),
        sa.Column("end_reason", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "study_id", name="pk_study_runs"),
    )
    op.add_column("trials", sa.Column("run", sa.String(), nullable=True))
