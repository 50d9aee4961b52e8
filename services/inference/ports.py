"""What the inference service needs from other services, in domain terms."""

from dataclasses import dataclass
from typing import Protocol

LATEST = "latest"
"""Reference to the newest version of a model."""


@dataclass(frozen=True)
class PublishedVersion:
    """A model version in the registry.

    Attributes:
        model_id: Id of the model.
        number: Version number within the model: 1, 2, 3, …
        manifest_sha256: Digest of the version's manifest.
    """

    model_id: str
    number: int
    manifest_sha256: str


class Registry(Protocol):
    """The registry's models. Thread-safe. Results are not cached: every call queries the registry."""

    def find_model_version(self, tenant: str, model_id: str, reference: str) -> PublishedVersion:
        """Finds a version by reference. The reference is a version number, an alias id or `latest`.

        Raises:
            InvalidArgument: BAD_NAME.
            NotFound: The model, version or alias does not exist.
            Unavailable, DeadlineExceeded: The registry did not respond.
        """

    def list_model_ids(self, tenant: str) -> list[str]:
        """Returns the id of every model of a tenant.

        Raises:
            Unavailable, DeadlineExceeded: The registry did not respond.
        """
