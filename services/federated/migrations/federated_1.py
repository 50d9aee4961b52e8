"""Federations, nodes, runs and rounds."""

import sqlalchemy as sa
from alembic import op

revision = "federated_1"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Creates the tables."""
    op.create_table(
        "federations",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("federation_id", sa.String(), nullable=False),
        sa.Column("description", sa.String(), nullable=False),
        sa.Column("create_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "federation_id", name="pk_federations"),
    )
    op.create_table(
        "nodes",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("federation_id", sa.String(), nullable=False),
        sa.Column("node_id", sa.String(), nullable=False),
        sa.Column("public_key", sa.String(), nullable=False),
        sa.Column("fingerprint", sa.String(), nullable=False),
        sa.Column("flower_node_id", sa.String(), nullable=False),
        sa.Column("create_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "federation_id", "node_id", name="pk_nodes"),
    )
    op.create_index("nodes_by_fingerprint", "nodes", ["fingerprint"], unique=True)
    op.create_table(
        "federated_runs",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("federation_id", sa.String(), nullable=False),
        sa.Column("job_id", sa.String(), nullable=False),
        sa.Column("create_us", sa.BigInteger(), nullable=False),
        sa.Column("spec", sa.String(), nullable=False),
        sa.Column("nodes", sa.String(), nullable=False),
        sa.Column("dataset_manifest_sha256", sa.String(), nullable=False),
        sa.Column("init_manifest", sa.String(), nullable=True),
        sa.Column("privacy", sa.String(), nullable=True),
        sa.Column("recipe", sa.String(), nullable=True),
        sa.Column("initial_model", sa.String(), nullable=True),
        sa.Column("num_released", sa.BigInteger(), nullable=False),
        sa.Column("num_events", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "run_id", name="pk_federated_runs"),
    )
    op.create_index("federated_runs_by_time", "federated_runs", ["tenant", "federation_id", "create_us", "run_id"])
    op.create_index("federated_runs_by_job", "federated_runs", ["tenant", "job_id"], unique=True)
    op.create_table(
        "federated_run_events",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("time_us", sa.BigInteger(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("payload", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "run_id", "sequence", name="pk_federated_run_events"),
    )
    op.create_table(
        "rounds",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("round", sa.BigInteger(), nullable=False),
        sa.Column("attempt", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("plan_time_s", sa.Double(), nullable=False),
        sa.Column("cohort", sa.String(), nullable=False),
        sa.Column("sealed_model", sa.String(), nullable=False),
        sa.Column("sealed_state", sa.String(), nullable=False),
        sa.Column("debit", sa.String(), nullable=False),
        sa.Column("model_version", sa.String(), nullable=False),
        sa.Column("record", sa.String(), nullable=False),
        sa.Column("audit", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "run_id", "round", "attempt", name="pk_rounds"),
    )
    op.create_table(
        "publications",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.Column("sealed_model", sa.String(), nullable=False),
        sa.Column("manifest", sa.String(), nullable=False),
        sa.Column("metrics", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint("tenant", "run_id", "sealed_model", name="pk_publications"),
    )
