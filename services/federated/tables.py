"""The coordinator's tables. The state of a run's job is in the tables of `common.jobs`."""

from sqlalchemy import Index
from sqlalchemy.orm import Mapped, mapped_column

from common.database import Base
from common.jobs.history import EventRow


class FederationRow(Base):
    """One federation."""

    __tablename__ = "federations"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    federation_id: Mapped[str] = mapped_column(primary_key=True)
    description: Mapped[str]
    create_us: Mapped[int]


class NodeRow(Base):
    """A registered node. Ids of Flower are unsigned 64-bit numbers, which exceed the range of integer columns, so they
    are stored as text.

    A key belongs to one node, also across tenants: Flower identifies a node by its key, and the node gets the tasks of
    one federation.
    """

    __tablename__ = "nodes"
    __table_args__ = (Index("nodes_by_fingerprint", "fingerprint", unique=True),)

    tenant: Mapped[str] = mapped_column(primary_key=True)
    federation_id: Mapped[str] = mapped_column(primary_key=True)
    node_id: Mapped[str] = mapped_column(primary_key=True)
    public_key: Mapped[str]
    fingerprint: Mapped[str]
    flower_node_id: Mapped[str]
    create_us: Mapped[int]


class RunRow(Base):
    """One federated run.

    `nodes` is a JSON list of the fingerprints of the federation's nodes when the run started; their number is part of
    the privacy guarantee, so later changes do not affect the run. `privacy` is a JSON object, the plan that was made
    when the run started: release, delta, and what was left of the budget. `init_manifest` is the digest of the manifest
    of the model version from which the run starts. `recipe` and `initial_model` are digests of artifacts that the first
    attempt prepares. `num_events` is the sequence number of the last event.
    """

    __tablename__ = "federated_runs"
    __table_args__ = (
        Index("federated_runs_by_time", "tenant", "federation_id", "create_us", "run_id"),
        Index("federated_runs_by_job", "tenant", "job_id", unique=True),
    )

    tenant: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(primary_key=True)
    federation_id: Mapped[str]
    job_id: Mapped[str]
    create_us: Mapped[int]
    spec: Mapped[str]
    nodes: Mapped[str]
    dataset_manifest_sha256: Mapped[str]
    init_manifest: Mapped[str | None] = mapped_column(default=None)
    privacy: Mapped[str | None] = mapped_column(default=None)
    recipe: Mapped[str | None] = mapped_column(default=None)
    initial_model: Mapped[str | None] = mapped_column(default=None)
    num_released: Mapped[int] = mapped_column(default=0)
    num_events: Mapped[int] = mapped_column(default=0)


class RunEventRow(EventRow):
    """One event of a run's history."""

    __tablename__ = "federated_run_events"


class RoundRow(Base):
    """One attempt to do a round (`deepseek.federated.rounds.Round`).

    `cohort` and `audit` are for the operator only, and no method of the service returns them. `sealed_model` and
    `sealed_state` are digests of artifacts. `cohort` is a JSON list, `record` and `audit` are JSON objects.
    """

    __tablename__ = "rounds"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(primary_key=True)
    round: Mapped[int] = mapped_column(primary_key=True)
    attempt: Mapped[int] = mapped_column(primary_key=True)
    state: Mapped[str]
    plan_time_s: Mapped[float]
    cohort: Mapped[str]
    sealed_model: Mapped[str]
    sealed_state: Mapped[str]
    debit: Mapped[str]
    model_version: Mapped[str]
    record: Mapped[str]
    audit: Mapped[str]


class PublicationRow(Base):
    """The exported model of a round, stored before it is registered and deleted after its release.

    `manifest` is the descriptor of an artifact. `metrics` is a JSON object, the metrics that the registry stores.
    """

    __tablename__ = "publications"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    run_id: Mapped[str] = mapped_column(primary_key=True)
    sealed_model: Mapped[str] = mapped_column(primary_key=True)
    manifest: Mapped[str]
    metrics: Mapped[str]
