"""The artifact store: immutable blobs, addressed by their SHA-256 digests. All content of the mesh is stored here."""

from common.artifacts.artifact import Artifact, check_sha256
from common.artifacts.open import open_store
from common.artifacts.store import ArtifactStore

__all__ = ["Artifact", "ArtifactStore", "check_sha256", "open_store"]
