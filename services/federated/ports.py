"""What the coordinator needs from other services, in domain terms."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from common.artifacts import Artifact
from deepseek.federated.ports import Debit, Preview
from deepseek.privacy.releases import Release

Unit = Literal["client", "example"]


@dataclass(frozen=True)
class DatasetVersion:
    """A data set version in the registry.

    Attributes:
        name: `datasets/<id>/versions/<n>`; never an alias.
        manifest: Manifest of the version.
    """

    name: str
    manifest: Artifact


@dataclass(frozen=True)
class ModelVersion:
    """A model version in the registry.

    Attributes:
        name: `models/<id>/versions/<n>`; never an alias.
        manifest: Manifest of the version.
    """

    name: str
    manifest: Artifact


@dataclass(frozen=True)
class Guarantee:
    """The privacy guarantee of a released model, for add/remove adjacency.

    Attributes:
        epsilon: Privacy loss of the protected data up to the debit.
        delta: Probability with which the bound may not hold.
        unit: What is protected.
        is_sampled: Whether the guarantee relies on Poisson sampling.
        debit: `budgets/<id>/debits/<n>`, the last debit that the guarantee includes.
    """

    epsilon: float
    delta: float
    unit: Unit
    is_sampled: bool
    debit: str


class Registry(Protocol):
    """The part of the registry that the coordinator uses: data set versions and model versions. Thread-safe."""

    def find_dataset_version(self, tenant: str, name: str, *, field: str) -> DatasetVersion:
        """Finds a version by name. The name may contain a version number, an alias or `latest`.

        Args:
            tenant: Tenant that owns the data set.
            name: Name of the version or of an alias.
            field: Request field that contains the name; errors refer to it.

        Raises:
            NotFound: DATASET_VERSION_NOT_FOUND.
            InvalidArgument: BAD_NAME.
            Unavailable, DeadlineExceeded: The registry did not respond.
        """

    def find_model_version(self, tenant: str, name: str, *, field: str) -> ModelVersion:
        """Finds a model version by name, like `find_dataset_version`.

        Raises:
            NotFound: MODEL_VERSION_NOT_FOUND.
            InvalidArgument: BAD_NAME.
            Unavailable, DeadlineExceeded: The registry did not respond.
        """

    def unprotected_ancestor(self, tenant: str, name: str, *, dataset: str, budget: str) -> str:
        """Returns the name of a model version that `deepseek.privacy.ancestry.unprotected_ancestor` finds, or "".

        Args:
            tenant: Tenant that owns the model version.
            name: Name of the model version whose lineage is followed, for up to 100 steps.
            dataset: `federations/<id>`.
            budget: `budgets/<id>`.

        Raises:
            ResourceExhausted: TOO_MANY_EDGES.
            Unavailable, DeadlineExceeded: The registry did not respond.
        """

    def register_model_version(
        self,
        model: str,
        manifest: Artifact,
        *,
        sources: Sequence[str],
        metrics: Mapping[str, float],
        guarantee: Guarantee | None,
        request_id: str,
    ) -> str:
        """Adds the next version of `models/<id>` for the manifest's tenant. Idempotent.

        Args:
            model: `models/<id>`.
            manifest: Manifest of the new version.
            sources: Names of the resources that the version was made from.
            metrics: Metrics of the model, by name.
            guarantee: Privacy guarantee; None if the model was trained without differential privacy.
            request_id: Request id, by which the registry recognizes a repeated call.

        Returns:
            Name of the new version or, if the model already has a version with this manifest, of that version.

        Raises:
            Unavailable, DeadlineExceeded: The registry did not respond; the version may or may not have been added.
            MeshError: The registry rejected the call.
        """


@dataclass(frozen=True)
class Budget:
    """A privacy budget.

    Attributes:
        name: `budgets/<id>`.
        dataset: Name of the protected data, e.g. `federations/<id>`.
        unit: What the budget protects; empty if the unit is unknown to this release.
        epsilon: Upper limit of the privacy loss.
        delta: Probability with which the limit may not hold.
        epsilon_spent: Privacy loss so far.
        epsilon_left: Privacy loss that is left.
    """

    name: str
    dataset: str
    unit: str
    epsilon: float
    delta: float
    epsilon_spent: float
    epsilon_left: float


class Budgets(Protocol):
    """The ledger of privacy budgets. Thread-safe."""

    def find(self, tenant: str, name: str, *, field: str) -> Budget:
        """Returns a budget.

        Raises:
            NotFound: BUDGET_NOT_FOUND.
            InvalidArgument: BAD_NAME.
            Unavailable, DeadlineExceeded: The ledger did not respond.
        """

    def budgets_of(self, tenant: str, names: Sequence[str]) -> Sequence[Budget]:
        """Returns the budgets that protect some data, by the names of the data, e.g. `federations/<id>`.

        Raises:
            Unavailable, DeadlineExceeded: The ledger did not respond.
        """

    def preview(self, tenant: str, budget: str, release: Release, planned: Sequence[Release] = ()) -> Preview:
        """Returns the effect that a debit would have after the `planned` ones. Debits nothing.

        Raises:
            MeshError: As for `find`, or DATA_LOSS (LEDGER_TAMPERED).
        """

    def debit(
        self,
        tenant: str,
        budget: str,
        release: Release,
        *,
        run: str,
        round_number: int,
        sealed_sha256: str,
        request_id: str,
    ) -> Debit:
        """Debits a budget for one round, durably. The same `request_id` returns the same entry for some days.

        Raises:
            FailedPrecondition: BUDGET_EXHAUSTED; nothing was debited.
            Unavailable, DeadlineExceeded: The ledger did not respond. It may have debited.
            MeshError: The ledger rejected the call; nothing was debited.
        """

    def find_debit(
        self,
        tenant: str,
        budget: str,
        release: Release,
        *,
        run: str,
        round_number: int,
        sealed_sha256: str,
        others: Collection[str] = (),
    ) -> Debit | None:
        """Returns the debit of a round, however long ago it was made, except `others`; None if there is none.

        Raises:
            NotFound: BUDGET_NOT_FOUND.
            Unavailable, DeadlineExceeded: The ledger did not respond.
        """

    def sealed_sha256(self, tenant: str, budget: str, debit: str) -> str | None:
        """Returns the SHA-256 of the result that a debit allows to release; None if there is no such debit.

        Raises:
            NotFound: BUDGET_NOT_FOUND.
            Unavailable, DeadlineExceeded: The ledger did not respond.
        """
