"""Client of the registry's models, with their versions, files, aliases and lineage.

Names may have any form that `deepseek.client.names` reads, e.g. `digits:3`.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import FailedPrecondition, Unavailable
from deepseek.client import jobs, names
from deepseek.client.artifacts import Artifacts
from deepseek.client.connection import Connection
from deepseek.client.model_files import messages, model_files
from deepseek.client.pages import pages
from deepseek.client.resume import PATIENCE_S, RETRY_INTERVAL_S, Patience
from deepseek.client.users_of_versions import check_no_run_uses
from deepseek.models.manifest import ModelManifest
from protos.job.v1 import job_pb2
from protos.registry.v1 import registry_pb2, registry_pb2_grpc
from protos.trainer.v1 import trainer_pb2, trainer_pb2_grpc

if TYPE_CHECKING:
    import numpy.typing as npt


class Models:
    """Client of a mesh's models, available as `Mesh.models`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._artifacts = Artifacts(connection)
        self._stub = registry_pb2_grpc.RegistryServiceStub(connection.channel("registry"))

    def list(self) -> Iterator[registry_pb2.Model]:
        """Yields every model, ordered by id."""
        for page in pages(self._stub.ListModels, registry_pb2.ListModelsRequest()):
            yield from page.models

    def versions(self, model: str) -> Iterator[registry_pb2.ModelVersion]:
        """Yields every version of a model, newest first."""
        request = registry_pb2.ListModelVersionsRequest(parent=_model_name(model))
        for page in pages(self._stub.ListModelVersions, request):
            yield from page.model_versions

    def version(self, name: str) -> registry_pb2.ModelVersion:
        """Returns a version by name, e.g. `digits`, `digits:3` or `digits@champion`."""
        request = registry_pb2.GetModelVersionRequest(name=names.version_name(name, "models", field="name"))
        version: registry_pb2.ModelVersion = self._stub.GetModelVersion(request).model_version
        return version

    def manifest(self, version: registry_pb2.ModelVersion) -> ModelManifest:
        """Reads and verifies the manifest of a version."""
        return ModelManifest.from_bytes(self._artifacts.read(version.manifest.sha256))

    def download(self, name: str, folder: Path, *, on_bytes: Callable[[int, int], None] | None = None) -> ModelManifest:
        """Downloads the files of a version, and saves the version's manifest as `manifest.json`.

        Args:
            name: Name of the version, in any form that the method `version` accepts.
            folder: Target folder, which must exist. After a file has been downloaded and verified, it replaces
                any existing file of the same name.
            on_bytes: Called with the number of bytes received so far and the total size of the files, in bytes.

        Raises:
            MeshError: Any error that `Artifacts.fetch` raises. Files whose download was complete remain in the folder.
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
            self._artifacts.fetch(file.sha256, folder / file.name, on_bytes=count)
        self._artifacts.fetch(version.manifest.sha256, folder / "manifest.json")
        return manifest

    def import_onnx(
        self,
        model: str,
        path: Path | str,
        *,
        license: str = "",
        note: str = "",
        labels: Sequence[str] = (),
        example: Mapping[str, npt.ArrayLike] | Path | None = None,
        on_bytes: Callable[[int, int], None] | None = None,
        on_change: Callable[[job_pb2.Job], None] | None = None,
    ) -> registry_pb2.ModelVersion:
        """Registers an ONNX model that was made elsewhere as a version. `TrainerService.ImportModel` describes how.

        Args:
            model: Name of the model, which need not exist.
            path: The ONNX file, or a folder that contains exactly one. External data must be in the file's folder.
            license: Licence of the model, e.g. `MIT`.
            note: Note for people.
            labels: Labels of the classes, in the order of the model's scores.
            example: One sample for each input, with the batch axis, for a model that rejects generated requests; arrays
                by the names of the inputs, or an .npz file of them.
            on_bytes: Called with the number of bytes sent so far and the total.
            on_change: Called with each update of the import job.

        Returns:
            The version. If the model already has a version with the same content, that version.

        Raises:
            MeshError: Any error that `ImportModel`, its job or `deepseek.client.model_files.model_files` raises. After
                an error, nothing is registered.
        """
        first = trainer_pb2.ImportModelRequest(
            model=_model_name(model),
            license=license,
            note=note,
            labels=labels,
            request_id=uuid.uuid4().hex,
        )
        files, channel = model_files(Path(path)), self._connection.channel("trainer")
        stub, patience = trainer_pb2_grpc.TrainerServiceStub(channel), Patience(PATIENCE_S)
        with _example_file(example) as sample:
            while True:
                try:
                    job = stub.ImportModel(messages(files, first, sample, on_bytes)).job
                    break
                except Unavailable:
                    if patience.is_over:
                        raise
                time.sleep(RETRY_INTERVAL_S)
        return self.version(jobs.wait(channel, job, on_change=on_change).result)

    def aliases(self, model: str) -> Iterator[registry_pb2.Alias]:
        """Yields every alias of a model, ordered by id."""
        for page in pages(self._stub.ListAliases, registry_pb2.ListAliasesRequest(parent=_model_name(model))):
            yield from page.aliases

    def alias(self, name: str) -> registry_pb2.Alias:
        """Returns an alias by name, e.g. `digits@champion`."""
        request = registry_pb2.GetAliasRequest(name=names.alias_name(name, "models", field="name"))
        alias: registry_pb2.Alias = self._stub.GetAlias(request).alias
        return alias

    def set_alias(self, model: str, alias: str, version: str, *, expected: str = "") -> registry_pb2.Alias:
        """Points an alias at a version if the alias still points at the expected version (compare-and-swap).

        Args:
            model: Name of the model.
            alias: Id of the alias.
            version: Name of the version at which the alias will point.
            expected: Name of the version at which the alias must point now; empty if the alias must not exist yet.

        Raises:
            Aborted: ALIAS_MOVED if the alias does not point at the expected version.
        """
        series = names.series_id(model, "models", field="model")
        request = registry_pb2.SetAliasRequest(
            name=names.alias_name(f"{series}@{alias}", "models", field="alias"),
            version=self._numbered(version, "version"),
            expected_version=expected and self._numbered(expected, "expected"),
            request_id=uuid.uuid4().hex,
        )
        moved: registry_pb2.Alias = self._stub.SetAlias(request).alias
        return moved

    def _numbered(self, text: str, field: str) -> str:
        """Returns the name of a version with its number, given any form that users write."""
        name = names.version_name(text, "models", field=field)
        return name if names.is_numbered(name) else self.version(name).name

    def delete_alias(self, name: str) -> None:
        """Deletes an alias, e.g. `digits@champion`, and the history of its moves."""
        name = names.alias_name(name, "models", field="name")
        self._stub.DeleteAlias(registry_pb2.DeleteAliasRequest(name=name, request_id=uuid.uuid4().hex))

    def delete(self, name: str, *, every: bool = False) -> None:
        """Deletes a version, or a model with all its versions. `deepseek gc` then deletes the files.

        Args:
            name: Name of a version with its number, e.g. `digits:3`. With `every`, name of the model.
            every: Whether to delete a model with all its versions.

        Raises:
            InvalidArgument: BAD_NAME.
            FailedPrecondition: VERSION_IN_USE if an alias points at a version, another version was made from it, an
                active run starts from it, or the inference service serves or loads it. The message says what uses the
                version.
            MeshError: The inference service or the trainer does not respond, so the users of the version are unknown.
        """
        name = names.deletable_name(name, "models", field="name", every=every)
        model, number = (*name.split("/")[1::2], "")[:2]
        for served, state in self._served(model):
            if number in ("", served):
                how = "is being loaded" if state == "LOADING" else "is served"
                message = f"version {served} of {model} {how}; unload it first: deepseek model unload {model}"
                raise FailedPrecondition("VERSION_IN_USE", message, field="name")
        check_no_run_uses(self._connection, name)
        request_id = uuid.uuid4().hex
        if number:
            self._stub.DeleteModelVersion(registry_pb2.DeleteModelVersionRequest(name=name, request_id=request_id))
        else:
            self._stub.DeleteModel(registry_pb2.DeleteModelRequest(name=name, request_id=request_id))

    def _served(self, model: str) -> Sequence[tuple[str, str]]:
        """Returns the number and the state of each version of a model that is served or about to be."""
        if "inference" not in self._connection.services:
            return ()
        from deepseek.client.inference import Inference  # imports NumPy, which no other method needs

        entries = Inference(self._connection).index()
        return [(entry.version, entry.state) for entry in entries if entry.name == model and entry.version]

    def lineage(self, name: str) -> Sequence[registry_pb2.LineageEdge]:
        """Returns the edges of the lineage graph around a resource, up to 10 edges away in each direction.

        Args:
            name: Name of the resource, e.g. `digits:3`, `digits@champion`, `datasets/colours:1` or `runs/<id>`.

        Returns:
            The edges. Each edge points from a source to a resource that was made from it.
        """
        return tuple(self.lineage_graph(name).edges)

    def lineage_graph(self, name: str) -> registry_pb2.GetLineageResponse:
        """Returns the edges that `lineage` returns, and the privacy guarantees of the model versions among them."""
        request = registry_pb2.GetLineageRequest(name=names.resource_name(name, field="name"))
        graph: registry_pb2.GetLineageResponse = self._stub.GetLineage(request)
        return graph


def _model_name(model: str) -> str:
    return f"models/{names.series_id(model, 'models', field='model')}"


@contextlib.contextmanager
def _example_file(example: Mapping[str, npt.ArrayLike] | Path | None) -> Iterator[Path | None]:
    """Returns the file with an example request."""
    if not isinstance(example, Mapping):
        yield example
        return
    import numpy as np

    with tempfile.NamedTemporaryFile(suffix=".npz") as file:
        np.savez(file, allow_pickle=False, **{name: np.asarray(array) for name, array in example.items()})
        file.flush()
        yield Path(file.name)
