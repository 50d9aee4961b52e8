"""Immutable blobs, addressed by their SHA-256: the one place where bytes of the mesh are kept."""

from common.artifacts.artifact import Artifact, check_sha256
from common.artifacts.open import open_store
from common.artifacts.store import ArtifactStore

__all__ = ["Artifact", "ArtifactStore", "check_sha256", "open_store"]
