"""A federated run, as read from its row and its job."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from common.jobs import Job
from deepseek.federated.run_spec import FederatedRunSpec
from deepseek.privacy.releases import Release
from services.federated.tables import RunRow


@dataclass(frozen=True)
class PrivacyPlan:
    """How a run is protected, as decided when it was started.

    Attributes:
        budget: `budgets/<id>`.
        unit: `client` or `example`.
        release: The release that is debited for one round.
        delta: Delta of the budget.
        epsilon_left: What was left of the budget when the run was started.
    """

    budget: str
    unit: str
    release: Release
    delta: float
    epsilon_left: float

    def to_json(self) -> str:
        """Returns the plan as JSON text."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "PrivacyPlan":
        """Returns the plan that `to_json` wrote."""
        data: Mapping[str, Any] = json.loads(text)
        return cls(**{**data, "release": Release(**data["release"])})


@dataclass(frozen=True)
class FederatedRun:
    """A federated run. The proto message `deepseek.federated.v1.Run` documents most of the attributes.

    Attributes:
        nodes: Fingerprints of the federation's nodes when the run was started, in ascending order.
        recipe: Digest of the recipe, which every task contains; None until the first attempt has prepared it.
        initial_model: Digest of the model before round 1; None until the first attempt has prepared it.
    """

    tenant: str
    federation_id: str
    run_id: str
    spec: FederatedRunSpec
    job: Job
    create_us: int
    nodes: tuple[str, ...]
    dataset_manifest_sha256: str
    init_manifest: str | None
    privacy: PrivacyPlan | None
    recipe: str | None
    initial_model: str | None
    num_released: int

    @property
    def name(self) -> str:
        """Resource name, `federations/<id>/runs/<id>`."""
        return f"federations/{self.federation_id}/runs/{self.run_id}"

    @property
    def federation(self) -> str:
        """Resource name of the federation."""
        return f"federations/{self.federation_id}"


def read_run(row: RunRow, job: Job) -> FederatedRun:
    """Returns the run of a row, whose job must have been read in the same snapshot."""
    return FederatedRun(
        tenant=row.tenant,
        federation_id=row.federation_id,
        run_id=row.run_id,
        spec=FederatedRunSpec.from_json(json.loads(row.spec)),
        job=job,
        create_us=row.create_us,
        nodes=tuple(json.loads(row.nodes)),
        dataset_manifest_sha256=row.dataset_manifest_sha256,
        init_manifest=row.init_manifest,
        privacy=PrivacyPlan.from_json(row.privacy) if row.privacy else None,
        recipe=row.recipe,
        initial_model=row.initial_model,
        num_released=row.num_released,
    )
