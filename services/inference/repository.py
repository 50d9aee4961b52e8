"""The loaded models of this server: which version serves requests, and how a new version replaces it.

While a new version is being opened, the current one continues to serve requests. The new version takes over once it has
been loaded and recorded in the database. A swap thus drops no requests, and a failed load changes nothing. Running
requests keep the old engine; its memory is freed when the last of them ends. A restart loads the same versions without
calling the registry; on a host of the same kind, it also loads the same files. Loads and unloads of one model are
serialized; different models load in parallel. Versions are opened by `opener`.
"""

import json
import logging
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import select

from common import names
from common.artifacts import ArtifactStore
from common.database import Database, now_us
from common.errors import MeshError, NotFound, Unavailable
from services.inference.cache import FileCache
from services.inference.loaded import HostKind, IndexEntry, LoadedModel
from services.inference.opener import MAX_WAIT_S, VersionOpener
from services.inference.ports import LATEST, Registry
from services.inference.tables import LoadedModelRow
from services.inference.verification import OpenEngine

MAX_RESTORE_DELAY_S = 60.0

_Key = tuple[str, str]  # tenant, model id
_logger = logging.getLogger(__name__)


class Repository:
    """The loaded models of all tenants. Thread-safe.

    Args:
        database: Migrated database; borrowed, not closed.
        store: Store of manifests and model files.
        registry: Registry, which resolves references to published versions.
        cache_directory: Directory for local copies of model files, used by this process only.
        open_engine: Function that creates an engine from an ONNX file.
        host: Kind of this host.
        restore_delay_s: Delay before the first retry of models that could not be restored, in seconds. The delay
            doubles with each further retry.
    """

    def __init__(
        self,
        database: Database,
        store: ArtifactStore,
        registry: Registry,
        cache_directory: Path,
        open_engine: OpenEngine,
        host: HostKind,
        *,
        restore_delay_s: float = 1.0,
    ) -> None:
        self._database = database
        self._registry = registry
        self._cache = FileCache(store, cache_directory)
        self._opener = VersionOpener(store, self._cache, open_engine)
        self._host = host
        self._restore_delay_s = restore_delay_s
        self._loaded: dict[_Key, LoadedModel] = {}
        self._waiting: dict[_Key, tuple[int, str]] = {}  # version number, and why it is not restored yet
        self._changing: set[_Key] = set()
        self._loading: dict[_Key, int] = {}  # number of the version that is being loaded
        self._change = threading.Condition()
        self._restored = threading.Event()
        self._stopping = threading.Event()
        self._restorers: list[threading.Thread] = []

    def start(self) -> None:
        """Starts restoring the models loaded before the restart; `ready` becomes true once each has been tried."""
        with self._database.snapshot() as session:
            rows = list(session.scalars(select(LoadedModelRow)))
        self._cache.keep_only([(row.tenant, row.file_sha256) for row in rows])
        self._begin_to_restore(rows)

    def restore_more(self) -> None:
        """Starts restoring the models that an import has added to the database."""
        with self._database.snapshot() as session:
            rows = list(session.scalars(select(LoadedModelRow)))
        self._begin_to_restore([row for row in rows if (row.tenant, row.model_id) not in self._loaded])

    def close(self) -> None:
        """Stops restoring models. The loaded models stay recorded in the database."""
        self._stopping.set()
        for restorer in self._restorers:
            restorer.join()

    @property
    def ready(self) -> bool:
        """Whether the server has tried at least once to restore each model that was loaded when it last stopped."""
        return self._restored.is_set()

    def get(self, tenant: str, model_id: str, version: str = "") -> LoadedModel:
        """Returns the loaded model.

        Args:
            tenant: Tenant that owns the model.
            model_id: Id of the model in the registry.
            version: Number that the loaded version must have; empty to accept whichever version is loaded.

        Raises:
            NotFound: MODEL_NOT_LOADED.
            Unavailable: MODEL_UNAVAILABLE if the model was loaded before a restart and has not been restored yet.
        """
        key = (tenant, model_id)
        model = self._loaded.get(key)
        if model is not None and (not version or version == str(model.number)):
            return model
        if model is not None:
            raise NotFound(
                "MODEL_NOT_LOADED",
                f"version {version!r} of {model_id!r} is not loaded; the loaded version is {model.number}",
                field="model_version",
            )
        if waiting := self._waiting.get(key):
            number, reason = waiting
            raise Unavailable(
                "MODEL_UNAVAILABLE",
                f"version {number} of {model_id!r} has not been restored yet: {reason}",
                retry_delay_s=1.0,
            )
        raise NotFound("MODEL_NOT_LOADED", f"the model {model_id!r} is not loaded; load it first", field="model_name")

    def loaded(self, tenant: str) -> list[LoadedModel]:
        """Returns the loaded models of a tenant, sorted by id."""
        models = self._loaded.copy()
        return [models[key] for key in sorted(models) if key[0] == tenant]

    def load(self, tenant: str, model_id: str, reference: str = "") -> LoadedModel:
        """Loads a version. The current version continues to serve requests until the new one can take over.

        Args:
            tenant: Tenant that owns the model.
            model_id: Id of the model in the registry.
            reference: Version number, alias or `latest`; empty means `latest`. If the version is already loaded, it is
                not loaded again.

        Raises:
            InvalidArgument: BAD_NAME.
            NotFound: The registry has no such version, the version was deleted during the load, or the store lacks its
                bytes.
            DataLoss: BLOB_DAMAGED if the store's bytes do not match their digest.
            FailedPrecondition: The manifest, the probes or the model are invalid, or no file produces correct outputs
                on this host.
            Unavailable: The registry or the store does not respond; MODEL_CHANGING if the model is already being loaded
                or unloaded, or other models are still being verified.
        """
        names.check_id(model_id, field="model_name")
        names.check_id(reference or LATEST, field="parameters[version]")
        key = (tenant, model_id)
        with self._exclusively(key):
            published = self._registry.find_model_version(tenant, model_id, reference or LATEST)
            old = self._loaded.get(key)
            if old and (old.number, old.manifest_sha256) == (published.number, published.manifest_sha256):
                return old
            self._loading[key] = published.number
            try:
                model = self._opener.open(tenant, model_id, published.number, published.manifest_sha256)
                with self._released_on_error(tenant, model):
                    # The version may have been deleted before the index listed it.
                    self._registry.find_model_version(tenant, model_id, str(model.number))
                    self._record(tenant, model)
                self._loaded[key] = model
            finally:
                del self._loading[key]
            self._waiting.pop(key, None)
            if old:
                self._cache.release(tenant, old.file.sha256)
        level = logging.INFO if model.file.mode == "fast" else logging.WARNING
        _logger.log(level, "loaded %s version %d: %s", model_id, model.number, self._explain(model))
        return model

    def unload(self, tenant: str, model_id: str) -> None:
        """Unloads a model. Its memory is freed when its running requests have finished.

        Raises:
            NotFound: MODEL_NOT_LOADED.
        """
        key = (tenant, model_id)
        with self._exclusively(key):
            if key not in self._loaded and key not in self._waiting:
                raise NotFound("MODEL_NOT_LOADED", f"there is no loaded model {model_id!r}", field="model_name")
            with self._database.transaction() as session:
                session.delete(session.get_one(LoadedModelRow, key))
            self._waiting.pop(key, None)
            model = self._loaded.pop(key, None)
            if model:
                self._cache.release(tenant, model.file.sha256)
        _logger.info("unloaded %s", model_id)

    def index(self, tenant: str, *, ready_only: bool = False) -> list[IndexEntry]:
        """Returns the loaded models, sorted by id.

        Unless `ready_only` is set, versions that are being loaded and all other models in the registry are included.

        Raises:
            Unavailable: The registry does not respond. If `ready_only` is set, the registry is not called.
        """
        # Read first, so that a version whose load ends meanwhile is found among the loaded ones.
        loading = {} if ready_only else self._loading.copy()
        entries = {} if ready_only else self._missing(tenant, loading)
        for (owner, model_id), model in self._loaded.copy().items():
            if owner == tenant:
                entries[model_id] = IndexEntry(model_id, model.number, "READY", self._explain(model))
        found = {(entry.model_id, entry.number): entry for entry in entries.values()}
        for (owner, model_id), number in loading.items():
            if owner == tenant:
                found.setdefault((model_id, number), IndexEntry(model_id, number, "LOADING"))
        return sorted(found.values(), key=lambda entry: entry.model_id)

    def _missing(self, tenant: str, loading: Mapping[_Key, int]) -> dict[str, IndexEntry]:
        """Returns entries for models in the registry and models waiting to be restored. Some may be loaded by now."""
        missing: dict[str, tuple[int | None, str]] = dict.fromkeys(
            self._registry.list_model_ids(tenant), (None, "it is not loaded")
        )
        missing.update({model_id: why for (owner, model_id), why in self._waiting.copy().items() if owner == tenant})
        with self._change:
            changing = {model_id for owner, model_id in self._changing if owner == tenant}
        return {
            model_id: IndexEntry(model_id, loading.get((tenant, model_id), number), "LOADING")
            if model_id in changing
            else IndexEntry(model_id, number, "UNAVAILABLE", reason)
            for model_id, (number, reason) in missing.items()
        }

    @contextmanager
    def _exclusively(self, key: _Key) -> Iterator[None]:
        """Excludes other loads and unloads of a model.

        Waits only briefly for a load or unload that is in progress, because waiting occupies a server thread.

        Raises:
            Unavailable: MODEL_CHANGING if another load or unload is still in progress.
        """
        with self._change:
            if not self._change.wait_for(lambda: key not in self._changing, MAX_WAIT_S):
                raise Unavailable(
                    "MODEL_CHANGING",
                    f"another load or unload of {key[1]!r} is in progress; try again",
                    retry_delay_s=MAX_WAIT_S,
                )
            self._changing.add(key)
        try:
            yield
        finally:
            with self._change:
                self._changing.remove(key)
                self._change.notify_all()

    @property
    def instruction_set(self) -> str:
        """The instruction set on which models run."""
        return self._host.instruction_set

    def count_served(self) -> Counter[tuple[str, str, str, str]]:
        """Counts the loaded models of all tenants, grouped by model id, version number, variant and instruction set."""
        models = self._loaded.copy().values()
        return Counter((one.model_id, str(one.number), one.file.variant, self.instruction_set) for one in models)

    def _explain(self, model: LoadedModel) -> str:
        how = "" if model.file.mode == "fast" else f", {model.file.mode}"
        return f"{model.file.variant}{how} on {self._host.instruction_set}: {model.file.reason}"

    @contextmanager
    def _released_on_error(self, tenant: str, model: LoadedModel) -> Iterator[None]:
        """Releases the file of a model if the block fails."""
        try:
            yield
        except MeshError:
            self._cache.release(tenant, model.file.sha256)
            raise

    def _record(self, tenant: str, model: LoadedModel) -> None:
        """Records which file of a version was chosen."""
        row = LoadedModelRow(
            tenant=tenant,
            model_id=model.model_id,
            number=model.number,
            manifest_sha256=model.manifest_sha256,
            file_sha256=model.file.sha256,
            update_us=now_us(),
            file_name=model.file.name,
            variant=model.file.variant,
            mode=model.file.mode,
            reason=model.file.reason,
            host=str(self._host),
            labels=json.dumps(model.labels, ensure_ascii=False),
        )
        with self._database.transaction() as session:
            session.merge(row)

    def _begin_to_restore(self, rows: Iterable[LoadedModelRow]) -> None:
        self._waiting |= {(row.tenant, row.model_id): (row.number, "restoring is in progress") for row in rows}
        restorer = threading.Thread(target=self._restore, name="restore-models", daemon=True)
        restorer.start()
        self._restorers.append(restorer)

    def _restore(self) -> None:
        """Restores the recorded models, and retries those that fail, with increasing delays."""
        delay_s = self._restore_delay_s
        while True:
            for key in list(self._waiting):
                if not self._stopping.is_set():
                    self._restore_one(key)
            self._restored.set()
            if not self._waiting or self._stopping.wait(delay_s):
                return
            delay_s = min(2 * delay_s, MAX_RESTORE_DELAY_S)

    def _restore_one(self, key: _Key) -> None:
        try:
            with self._exclusively(key):
                if key in self._waiting:  # it has not been loaded or unloaded in the meantime
                    self._restore_model(key)
        except Unavailable as error:
            _logger.info("not restoring %s now: %s", key[1], error)

    def _restore_model(self, key: _Key) -> None:
        tenant, model_id = key
        try:
            with self._database.snapshot() as session:
                row = session.get_one(LoadedModelRow, key)
            if row.host == str(self._host) and row.labels:
                model = self._opener.reopen(tenant, row)
            else:
                model = self._opener.open(tenant, model_id, row.number, row.manifest_sha256)
                with self._released_on_error(tenant, model):
                    self._record(tenant, model)
            self._loaded[key] = model
        except MeshError as error:
            _logger.warning("cannot restore %s: %s", model_id, error)
            self._waiting[key] = (self._waiting[key][0], error.message)
            return
        except Exception:  # a bug in restoring one model must not stop the others from being restored
            _logger.exception("bug while restoring %s", model_id)
            self._waiting[key] = (self._waiting[key][0], "an internal error; see the log of the server")
            return
        del self._waiting[key]
        _logger.info("restored %s version %d: %s", model_id, model.number, self._explain(model))
