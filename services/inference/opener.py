"""Opens model versions: chooses a version's file for this host, fetches it and loads it into an engine.

The opener does not track versions: the repository decides which opened version serves requests. Files are compared in
`verification`; models run in `engine`.
"""

import json
import threading
from contextlib import ExitStack
from functools import cache
from pathlib import Path
from typing import cast

from common.artifacts import ArtifactStore
from common.errors import FailedPrecondition, InvalidArgument, Unavailable
from deepseek.models.manifest import ModelFile, ModelManifest
from deepseek.models.probes import MAX_BYTES as MAX_PROBES_BYTES
from deepseek.models.probes import Probes
from services.inference.cache import FileCache
from services.inference.engine import Mode
from services.inference.loaded import LoadedModel, ServedFile
from services.inference.tables import LoadedModelRow
from services.inference.verification import OpenEngine, choose

MAX_WAIT_S = 5.0
"""Maximum time to wait for another load to finish, in seconds. It is short because a waiting call occupies a server
thread."""


class VersionOpener:
    """Opens versions of models. Thread-safe.

    Args:
        store: Store of manifests and model files.
        cache: Cache of model files. It holds the served file of every opened version.
        open_engine: Function that creates an engine from an ONNX file.
    """

    def __init__(self, store: ArtifactStore, cache: FileCache, open_engine: OpenEngine) -> None:
        self._store = store
        self._cache = cache
        self._open_engine = open_engine
        self._verifying = threading.Lock()  # one verification at a time: concurrent ones would distort the timings

    def open(self, tenant: str, model_id: str, number: int, manifest_sha256: str) -> LoadedModel:
        """Chooses the file to serve on this host, and opens it. The caller must later release the file from the cache.

        Raises:
            NotFound: The store lacks a blob of the version.
            DataLoss: BLOB_DAMAGED if the store's bytes do not match their digest.
            FailedPrecondition: The manifest, the probes or the model are invalid, or no file produces correct outputs
                on this host.
            Unavailable: The store does not respond; MODEL_CHANGING if other models are still being verified.
        """
        manifest = self._manifest(tenant, manifest_sha256)
        probes = self._probes(tenant, manifest)
        with ExitStack() as held:

            @cache
            def fetch(file: ModelFile) -> Path:
                path = self._cache.hold(tenant, file.sha256)
                held.callback(self._cache.release, tenant, file.sha256)
                return path

            # Files are fetched outside the lock, because fetching may take a long time. Without probes, only the
            # default file is fetched here; the others are needed only if the default file turns out to be wrong.
            for needed in manifest.candidates if probes else [manifest.file()]:
                fetch(needed)
            # The wait is limited, because otherwise loads could occupy all server threads.
            if not self._verifying.acquire(timeout=MAX_WAIT_S):
                message = "other models are being verified on this host; try again"
                raise Unavailable("MODEL_CHANGING", message, retry_delay_s=MAX_WAIT_S)
            try:
                choice = choose(manifest, probes, fetch, self._open_engine)
            finally:
                self._verifying.release()
            file = choice.file
            self._cache.hold(tenant, file.sha256)
        served = ServedFile(file.name, file.variant, file.sha256, choice.mode, choice.reason)
        labels = {output.name: output.labels for output in manifest.outputs if output.labels}
        return LoadedModel(model_id, number, manifest_sha256, served, choice.engine, labels)

    def reopen(self, tenant: str, row: LoadedModelRow) -> LoadedModel:
        """Opens the file that a host of this kind chose earlier. The caller must later release the file from the cache.

        Raises:
            MeshError: An error that `open` documents.
        """
        mode = cast(Mode, row.mode)
        path = self._cache.hold(tenant, row.file_sha256)
        try:
            engine = self._open_engine(path, mode)
        except BaseException:
            self._cache.release(tenant, row.file_sha256)
            raise
        served = ServedFile(row.file_name, row.variant, row.file_sha256, mode, row.reason)
        return LoadedModel(row.model_id, row.number, row.manifest_sha256, served, engine, json.loads(row.labels))

    def _manifest(self, tenant: str, sha256: str) -> ModelManifest:
        data = self._store.read(tenant, sha256)
        try:
            return ModelManifest.from_bytes(data)
        except InvalidArgument as error:  # not the caller's error: the caller sent only a name
            raise FailedPrecondition(error.reason, f"the model's manifest is invalid: {error.message}") from error

    def _probes(self, tenant: str, manifest: ModelManifest) -> Probes | None:
        if not manifest.probes:
            return None
        sha256 = manifest.file(manifest.probes).sha256
        if (size := self._store.size(tenant, sha256)) > MAX_PROBES_BYTES:  # before they are read into memory
            message = (
                f"the version's probes have {size} bytes; at most {MAX_PROBES_BYTES} are accepted. "
                "Export the model again"
            )
            raise FailedPrecondition("BAD_PROBES", message)
        try:
            return Probes.from_bytes(self._store.read(tenant, sha256))
        except InvalidArgument as error:  # as above
            raise FailedPrecondition(error.reason, f"{error.message}; export the model again") from error
