"""What ingest needs from other services, in domain terms."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from common.artifacts import Artifact


@dataclass(frozen=True)
class DatasetVersion:
    """A data set version in the registry.

    Attributes:
        name: `datasets/<id>/versions/<n>`; never an alias.
        manifest_sha256: Digest of the version's manifest.
    """

    name: str
    manifest_sha256: str


class Registry(Protocol):
    """The registry's data set versions. Thread-safe."""

    def register_dataset_version(
        self, dataset: str, manifest: Artifact, num_samples: int, sources: Sequence[str], request_id: str
    ) -> str:
        """Adds the next version of `datasets/<id>` for the manifest's tenant, with its lineage. Idempotent.

        Returns:
            Name of the new version or, if the data set already has a version with this manifest, of that version.

        Raises:
            Unavailable, DeadlineExceeded: The registry did not respond; the version may or may not have been added.
            MeshError: The registry rejected the call.
        """

    def find_dataset_version(self, tenant: str, name: str) -> DatasetVersion:
        """Finds a version by name. The name may contain a version number, an alias or `latest`.

        Raises:
            MeshError: An error documented for GetDatasetVersion, such as NotFound.
        """

    def check_source(self, tenant: str, name: str, *, field: str) -> None:
        """Checks the name of a source. A source in the registry must be a version that exists, named by its number.

        Args:
            tenant: Tenant that owns the source.
            name: Name of the source.
            field: Field of our request that contains the name, for the error.

        Raises:
            InvalidArgument: BAD_NAME.
            NotFound: The registry has no such version.
            Unavailable, DeadlineExceeded: The registry did not respond.
        """
