"""What the trainer needs from other services, in domain terms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from common.artifacts import Artifact


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

    def version_made_from(self, tenant: str, name: str) -> str:
        """Returns the name of a version that names the resource as a source; empty if there is none.

        Raises:
            Unavailable, DeadlineExceeded: The registry did not respond.
        """

    def register_model_version(
        self, model: str, manifest: Artifact, *, sources: Sequence[str], metrics: Mapping[str, float], request_id: str
    ) -> str:
        """Adds the next version of `models/<id>` for the manifest's tenant. Idempotent.

        Args:
            model: `models/<id>`.
            manifest: Manifest of the new version.
            sources: Names of the resources that the version was made from.
            metrics: Final metrics of the model, by name.
            request_id: Request id, by which the registry recognizes a repeated call.

        Returns:
            Name of the new version or, if the model already has a version with this manifest, of that version.

        Raises:
            Unavailable, DeadlineExceeded: The registry did not respond; the version may or may not have been added.
            MeshError: The registry rejected the call.
        """
