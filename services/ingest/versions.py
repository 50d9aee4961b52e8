"""What ingest needs from the registry, in words of the domain; `registry.py` is the real one, over gRPC."""

from dataclasses import dataclass
from typing import Protocol

from common.artifacts import Artifact


@dataclass(frozen=True)
class DatasetVersion:
    """A version that the registry knows.

    Attributes:
        name: `datasets/<id>/versions/<n>`.
        manifest_sha256: Digest of its manifest.
    """

    name: str
    manifest_sha256: str


class DatasetVersions(Protocol):
    """The registry's data set versions. Thread-safe."""

    def register(self, dataset: str, manifest: Artifact, num_samples: int, request_id: str) -> str:
        """Adds the next version of `datasets/<id>` of the manifest's tenant; repeating a call does nothing more.

        Returns:
            Name of the version; of an existing one if the data set has this manifest.

        Raises:
            Unavailable, DeadlineExceeded: It did not answer; the version may have been added or not.
            MeshError: It refused.
        """

    def find(self, tenant: str, name: str) -> DatasetVersion:
        """Looks a version up by number, alias or as the latest.

        Raises:
            MeshError: As the registry documents, e.g. NotFound.
        """
