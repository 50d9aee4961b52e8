"""Models of the registry: versions, aliases, lineage, and what is inside a version."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from deepseek.client.pages import pages
from deepseek.models.manifest import ModelManifest
from protos.registry.v1 import registry_pb2, registry_pb2_grpc

if TYPE_CHECKING:
    from deepseek.client.mesh import Mesh


class Models:
    """Reached as `Mesh.models`."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._stub = registry_pb2_grpc.RegistryServiceStub(mesh.channel("registry"))

    def list(self) -> Iterator[registry_pb2.Model]:
        """Every model, by id."""
        for page in pages(self._stub.ListModels, registry_pb2.ListModelsRequest()):
            yield from page.models

    def versions(self, model: str) -> Iterator[registry_pb2.ModelVersion]:
        """Every version of a model, newest first."""
        for page in pages(
            self._stub.ListModelVersions, registry_pb2.ListModelVersionsRequest(parent=f"models/{model}")
        ):
            yield from page.model_versions

    def version(self, name: str) -> registry_pb2.ModelVersion:
        """Looks a version up by name (`models/<id>/versions/<n>`, `…/versions/latest` or an alias)."""
        request = registry_pb2.GetModelVersionRequest(name=name)
        version: registry_pb2.ModelVersion = self._stub.GetModelVersion(request).model_version
        return version

    def manifest(self, version: registry_pb2.ModelVersion) -> ModelManifest:
        """Reads what a version consists of, verified."""
        return ModelManifest.from_bytes(self._mesh.artifacts.read(version.manifest.sha256))

    def download(self, name: str, folder: Path, *, on_bytes: Callable[[int, int], None] | None = None) -> ModelManifest:
        """Copies the files of a version, and its manifest as `manifest.json`.

        Args:
            name: As `version` takes it.
            folder: Where to; it exists. Files of the same names are replaced, each at once and verified.
            on_bytes: Called with how many bytes have come so far, and how many there are.

        Raises:
            MeshError: As `Artifacts.fetch`; the files before the one that failed are there.
        """
        version = self.version(name)
        manifest = self.manifest(version)
        total, so_far = sum(file.size_bytes for file in manifest.files), 0

        def count(num_bytes: int) -> None:
            nonlocal so_far
            so_far += num_bytes
            if on_bytes:
                on_bytes(so_far, total)

        for file in manifest.files:
            self._mesh.artifacts.fetch(file.sha256, folder / file.name, on_bytes=count)
        self._mesh.artifacts.fetch(version.manifest.sha256, folder / "manifest.json")
        return manifest

    def aliases(self, model: str) -> Iterator[registry_pb2.Alias]:
        """Every alias of a model, by id."""
        for page in pages(self._stub.ListAliases, registry_pb2.ListAliasesRequest(parent=f"models/{model}")):
            yield from page.aliases

    def set_alias(self, model: str, alias: str, version: str, *, expected: str = "") -> registry_pb2.Alias:
        """Moves an alias by compare-and-swap.

        Args:
            model: Id of the model.
            alias: Id of the alias.
            version: Name of the version to point at.
            expected: Name of the version it stands for now; empty if the alias must not exist yet.

        Raises:
            Aborted: ALIAS_MOVED if it stands elsewhere.
        """
        request = registry_pb2.SetAliasRequest(
            name=f"models/{model}/aliases/{alias}",
            version=version,
            expected_version=expected,
            request_id=uuid.uuid4().hex,
        )
        moved: registry_pb2.Alias = self._stub.SetAlias(request).alias
        return moved

    def lineage(self, name: str) -> Sequence[registry_pb2.LineageEdge]:
        """Every edge of the lineage graph around a version."""
        return tuple(self._stub.GetLineage(registry_pb2.GetLineageRequest(name=name)).edges)
