"""Privacy budgets, their debits, and the privacy guarantees of model versions."""

import sqlalchemy as sa
from alembic import op

revision = "registry_4"
down_revision = "registry_3"
branch_labels = None
depends_on = None

_VERSION = ("tenant", "kind", "series_id", "number")
_BUDGET = ("tenant", "budget_id")


def upgrade() -> None:
    """Creates the tables."""
    op.create_table(
        "guarantees",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("series_id", sa.String(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("epsilon", sa.Double(), nullable=False),
        sa.Column("delta", sa.Double(), nullable=False),
        sa.Column("unit", sa.String(), nullable=False),
        sa.Column("adjacency", sa.String(), nullable=False),
        sa.Column("sampling", sa.String(), nullable=False),
        sa.Column("debit", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint(*_VERSION, name="pk_guarantees"),
        sa.ForeignKeyConstraint(
            _VERSION,
            [f"versions.{column}" for column in _VERSION],
            name="fk_guarantees_tenant_kind_series_id_number",
        ),
    )
    op.create_table(
        "budgets",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("budget_id", sa.String(), nullable=False),
        sa.Column("dataset", sa.String(), nullable=False),
        sa.Column("unit", sa.String(), nullable=False),
        sa.Column("epsilon", sa.Double(), nullable=False),
        sa.Column("delta", sa.Double(), nullable=False),
        sa.Column("num_debits", sa.BigInteger(), nullable=False),
        sa.Column("epsilon_spent", sa.Double(), nullable=False),
        sa.Column("head_sha256", sa.String(), nullable=False),
        sa.Column("create_us", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(*_BUDGET, name="pk_budgets"),
        sa.UniqueConstraint("tenant", "dataset", "unit", name="uq_budgets_tenant_dataset_unit"),
    )
    op.create_table(
        "debits",
        sa.Column("tenant", sa.String(), nullable=False),
        sa.Column("budget_id", sa.String(), nullable=False),
        sa.Column("number", sa.BigInteger(), nullable=False),
        sa.Column("noise_multiplier", sa.Double(), nullable=False),
        sa.Column("sampling_rate", sa.Double(), nullable=False),
        sa.Column("count", sa.BigInteger(), nullable=False),
        sa.Column("epsilon_spent", sa.Double(), nullable=False),
        sa.Column("run", sa.String(), nullable=False),
        sa.Column("round", sa.BigInteger(), nullable=False),
        sa.Column("sealed_sha256", sa.String(), nullable=False),
        sa.Column("create_us", sa.BigInteger(), nullable=False),
        sa.Column("previous_sha256", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.PrimaryKeyConstraint(*_BUDGET, "number", name="pk_debits"),
        sa.ForeignKeyConstraint(
            _BUDGET, [f"budgets.{column}" for column in _BUDGET], name="fk_debits_tenant_budget_id"
        ),
    )
