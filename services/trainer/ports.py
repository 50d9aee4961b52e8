"""What the trainer needs from other services, in domain terms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from common.artifacts import Artifact
from deepseek.privacy.releases import Release


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
class Budget:
    """A privacy budget in the ledger.

    Attributes:
        name: `budgets/<id>`.
        dataset: Name of the protected data.
        protects_examples: Whether it protects single examples, not all data of a client.
        delta: Probability with which its limit may not hold.
    """

    name: str
    dataset: str
    protects_examples: bool
    delta: float


@dataclass(frozen=True)
class Debit:
    """A debit in the ledger.

    Attributes:
        name: `budgets/<id>/debits/<n>`.
        epsilon_spent: Privacy loss of this debit and all debits before it, at the budget's delta.
    """

    name: str
    epsilon_spent: float


@dataclass(frozen=True)
class Guarantee:
    """The privacy guarantee of a model version, for single examples and add/remove adjacency.

    Attributes:
        epsilon: Upper limit of the privacy loss of the budget's debits up to `debit`.
        delta: Probability with which `epsilon` may not hold.
        is_sampled: Whether steps use a secret sample of the examples.
        debit: Name of the run's debit.
    """

    epsilon: float
    delta: float
    is_sampled: bool
    debit: str


class Ledger(Protocol):
    """The part of the ledger of privacy budgets that the trainer uses. Thread-safe."""

    def find(self, tenant: str, name: str, *, field: str) -> Budget:
        """Returns a budget.

        Raises:
            NotFound: BUDGET_NOT_FOUND at `field`.
            InvalidArgument: BAD_NAME at `field`.
            Unavailable, DeadlineExceeded: The ledger did not respond.
        """

    def budgets_of(self, tenant: str, dataset: str) -> Sequence[Budget]:
        """Returns the budgets that protect a data set, by its name `datasets/<id>`; at most one for each unit.

        Raises:
            Unavailable, DeadlineExceeded: The ledger did not respond.
        """

    def num_fitting(self, tenant: str, budget: str, release: Release, planned: Sequence[Release] = ()) -> int:
        """Returns how many releases of this kind still fit, regardless of the release's count. Debits nothing.

        Args:
            tenant: Tenant that owns the budget.
            budget: Name of the budget.
            release: The kind of releases.
            planned: Releases that will be debited before.
        """

    def debit(self, tenant: str, budget: str, release: Release, *, run: str, request_id: str) -> Debit:
        """Debits a budget for a whole run. Idempotent for a request id, for several days.

        Raises:
            FailedPrecondition: BUDGET_EXHAUSTED; nothing was debited.
        """

    def find_debit(self, tenant: str, budget: str, release: Release, *, run: str) -> Debit | None:
        """Returns the last debit for exactly this release, outside of rounds, that names a run; None if there is none.

        Any writer can make debits that name the run, so the name alone proves nothing.
        """


class Registry(Protocol):
    """The part of the registry that the trainer uses: data set versions and model versions. Thread-safe."""

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
            dataset: `datasets/<id>`.
            budget: `budgets/<id>`.

        Raises:
            ResourceExhausted: TOO_MANY_EDGES.
            Unavailable, DeadlineExceeded: The registry did not respond.
        """

    def version_made_from(self, tenant: str, name: str) -> str:
        """Returns the name of a version that names the resource as a source; empty if there is none.

        Raises:
            Unavailable, DeadlineExceeded: The registry did not respond.
        """

    def register_model_version(
        self,
        model: str,
        manifest: Artifact,
        *,
        sources: Sequence[str],
        metrics: Mapping[str, float],
        request_id: str,
        guarantee: Guarantee | None = None,
    ) -> str:
        """Adds the next version of `models/<id>` for the manifest's tenant. Idempotent.

        Args:
            model: `models/<id>`.
            manifest: Manifest of the new version.
            sources: Names of the resources that the version was made from.
            metrics: Final metrics of the model, by name.
            request_id: Request id, by which the registry recognizes a repeated call.
            guarantee: Privacy guarantee; None if the model was trained without differential privacy.

        Returns:
            Name of the new version or, if the model already has a version with this manifest, of that version.

        Raises:
            Unavailable, DeadlineExceeded: The registry did not respond; the version may or may not have been added.
            MeshError: The registry rejected the call.
        """
