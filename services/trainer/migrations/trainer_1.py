"""Runs, their events, and exports."""

import sqlalchemy as sa
from alembic import op

revision = "trainer_1"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the tables."""
    op.create_table(
        "runs",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("create_us", sa.BigInteger(), nullable=False),
        sa.Column("spec", sa.String(), nullable=False),
        sa.Column("dataset_manifest_sha256", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("num_events", sa.BigInteger(), nullable=False),
        sa.Column("checkpoint", sa.String(), nullable=True),
        sa.Column("checkpoint_step", sa.BigInteger(), nullable=False),
        sa.Column("metrics", sa.String(), nullable=False),
        sa.Column("train_s", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "run_id", name="pk_runs"),
    )
    op.create_index("runs_by_time", "runs", ["tenant", "create_us", "run_id"])
    op.create_index("runs_by_fingerprint", "runs", ["tenant", "fingerprint"])
    op.create_index("runs_by_job", "runs", ["tenant", "job_id"], unique=True)
    op.create_table(
        "run_events",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("time_us", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("payload", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "run_id", "sequence", name="pk_run_events"),
    )
    op.create_table(
        "exports",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("manifest", sa.String(), nullable=False),
        sa.Column("metrics", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "run_id", "fingerprint", name="pk_exports"),
    )
