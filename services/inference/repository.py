"""The models this server has loaded: which version answers, and how another takes its place.

A version is opened beside the one that answers and takes over only when it can run and its place is committed, so a
swap drops no request and a failed load changes nothing. Active requests keep the engine they started with; its memory
is freed with the last of them. Loaded versions are loaded again after a restart, without the registry: on a host of the
same kind from the same file, on another kind as if for the first time.

Loads and unloads of one model happen one after another, those of different models side by side. Not here: how models
run (`engine`), which file is served (`verification`), how the registry is asked (`registry`).
"""

import logging
import threading
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import cast

from sqlalchemy import select

from common import names
from common.artifacts import ArtifactStore
from common.database import Database, now_us
from common.errors import FailedPrecondition, InvalidArgument, MeshError, NotFound, Unavailable
from deepseek.models.manifest import ModelFile, ModelManifest
from deepseek.models.probes import MAX_BYTES as MAX_PROBES_BYTES
from deepseek.models.probes import Probes
from services.inference.cache import FileCache
from services.inference.engine import Engine, Mode
from services.inference.tables import LoadedModelRow
from services.inference.verification import OpenEngine, choose

LATEST = "latest"
MAX_RESTORE_DELAY_S = 60.0
MAX_WAIT_S = 5.0

_Key = tuple[str, str]  # tenant, model id
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PublishedVersion:
    """A model version as the registry has it."""

    model_id: str
    number: int
    manifest_sha256: str


class Published(ABC):
    """What the repository asks the registry. Implementations are safe to share between threads and keep no answers."""

    @abstractmethod
    def version(self, tenant: str, model_id: str, reference: str) -> PublishedVersion:
        """The version that a number, `latest` or the id of an alias stands for now.

        Raises:
            InvalidArgument: BAD_NAME.
            NotFound: The model, version or alias does not exist.
            Unavailable: The registry does not answer.
        """

    @abstractmethod
    def model_ids(self, tenant: str) -> list[str]:
        """Every model of the registry, by id.

        Raises:
            Unavailable: The registry does not answer.
        """


@dataclass(frozen=True)
class Host:
    """The kind of host: on equal kinds a file gives the same answers at about the same speed.

    Attributes:
        instruction_set: As `deepseek.processor` names it.
        runtime: Device, threads and version of the runtime.
    """

    instruction_set: str
    runtime: str

    def __str__(self) -> str:
        return f"{self.instruction_set}, {self.runtime}"


@dataclass(frozen=True)
class ServedFile:
    """The file of a version that is served on this host.

    Attributes:
        name: Its name in the manifest.
        variant: Form of the model, e.g. `int8`.
        sha256: Its digest.
        mode: How the runtime computes it.
        reason: Why this file is served, for people.
    """

    name: str
    variant: str
    sha256: str
    mode: Mode
    reason: str


@dataclass(frozen=True)
class LoadedModel:
    """The version of a model that answers."""

    model_id: str
    number: int
    manifest_sha256: str
    file: ServedFile
    engine: Engine


@dataclass(frozen=True)
class IndexEntry:
    """A line of the repository index.

    `number` is None if nothing is loaded. `reason` says why; for a loaded model, which file is served and why.
    """

    model_id: str
    number: int | None
    state: str
    reason: str = ""


class Repository:
    """The loaded models of all tenants. Safe to share between threads.

    Args:
        database: Migrated; borrowed, not closed.
        store: Holds manifests and model files.
        published: The registry.
        cache_directory: For local copies of model files; this process alone uses it.
        open_engine: Makes an engine of an ONNX file.
        host: The kind of this host.
        restore_delay_s: First pause before a model that could not be restored is tried again; it doubles.
    """

    def __init__(
        self,
        database: Database,
        store: ArtifactStore,
        published: Published,
        cache_directory: Path,
        open_engine: OpenEngine,
        host: Host,
        *,
        restore_delay_s: float = 1.0,
    ) -> None:
        self._database = database
        self._store = store
        self._published = published
        self._cache = FileCache(store, cache_directory)
        self._open_engine = open_engine
        self._host = host
        self._restore_delay_s = restore_delay_s
        self._loaded: dict[_Key, LoadedModel] = {}
        self._waiting: dict[_Key, tuple[int, str]] = {}  # to be restored: number, why it is not yet
        self._changing: set[_Key] = set()
        self._change = threading.Condition()
        self._verifying = threading.Lock()  # held by one load at a time: concurrent timings disturb each other
        self._restored = threading.Event()
        self._stopping = threading.Event()
        self._restorers: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to load what was loaded before; `ready` tells when everything has been tried once."""
        with self._database.snapshot() as session:
            rows = list(session.scalars(select(LoadedModelRow)))
        self._cache.keep_only([(row.tenant, row.file_sha256) for row in rows])
        self._begin_to_restore(rows)

    def restore_more(self) -> None:
        """Begin to load what has been put on record from outside."""
        with self._database.snapshot() as session:
            rows = list(session.scalars(select(LoadedModelRow)))
        self._begin_to_restore([row for row in rows if (row.tenant, row.model_id) not in self._loaded])

    def close(self) -> None:
        """Stop restoring. What is loaded stays on record."""
        self._stopping.set()
        for restorer in self._restorers:
            restorer.join()

    @property
    def ready(self) -> bool:
        """Whether every model that was loaded before the start has been tried once."""
        return self._restored.is_set()

    def get(self, tenant: str, model_id: str, version: str = "") -> LoadedModel:
        """The model that answers.

        Args:
            tenant: Owner.
            model_id: Its id in the registry.
            version: Empty for the version that is served; else its number.

        Raises:
            NotFound: MODEL_NOT_LOADED.
            Unavailable: MODEL_UNAVAILABLE if it was loaded before a restart and is not yet restored.
        """
        key = (tenant, model_id)
        model = self._loaded.get(key)
        if model is not None and (not version or version == str(model.number)):
            return model
        if model is not None:
            raise NotFound(
                "MODEL_NOT_LOADED",
                f"version {version!r} of {model_id!r} is not loaded; version {model.number} is",
                field="model_version",
            )
        if waiting := self._waiting.get(key):
            number, reason = waiting
            raise Unavailable(
                "MODEL_UNAVAILABLE", f"version {number} of {model_id!r} is not back yet: {reason}", retry_delay_s=1.0
            )
        raise NotFound("MODEL_NOT_LOADED", f"the model {model_id!r} is not loaded; load it first", field="model_name")

    def load(self, tenant: str, model_id: str, reference: str = "") -> LoadedModel:
        """Load a version in place of the one that answers, which goes on until this one can take over.

        Args:
            tenant: Owner.
            model_id: Its id in the registry.
            reference: Version number, alias or `latest`; empty is `latest`. Nothing happens if it answers already.

        Raises:
            InvalidArgument: BAD_NAME.
            NotFound: The registry has no such version, or the store lacks its bytes.
            DataLoss: BLOB_DAMAGED if the store's bytes do not match their digest.
            FailedPrecondition: The manifest, the probes or the model are broken, or no file is correct on this host.
            Unavailable: Registry or store do not answer; MODEL_CHANGING if another load of it goes on.
        """
        names.check_id(model_id, field="model_name")
        names.check_id(reference or LATEST, field="parameters[version]")
        key = (tenant, model_id)
        with self._exclusively(key):
            published = self._published.version(tenant, model_id, reference or LATEST)
            old = self._loaded.get(key)
            if old and (old.number, old.manifest_sha256) == (published.number, published.manifest_sha256):
                return old
            model = self._verify(tenant, model_id, published.number, published.manifest_sha256)
            self._loaded[key] = model
            self._waiting.pop(key, None)
            if old:
                self._cache.release(tenant, old.file.sha256)
        level = logging.INFO if model.file.mode == "fast" else logging.WARNING
        _logger.log(level, "loaded %s version %d: %s", model_id, model.number, self._explain(model))
        return model

    def unload(self, tenant: str, model_id: str) -> None:
        """Forget a model. Requests under way finish; then its memory is free.

        Raises:
            NotFound: MODEL_NOT_LOADED.
        """
        key = (tenant, model_id)
        with self._exclusively(key):
            if key not in self._loaded and key not in self._waiting:
                raise NotFound("MODEL_NOT_LOADED", f"the model {model_id!r} is not loaded", field="model_name")
            with self._database.transaction() as session:
                session.delete(session.get_one(LoadedModelRow, key))
            self._waiting.pop(key, None)
            model = self._loaded.pop(key, None)
            if model:
                self._cache.release(tenant, model.file.sha256)
        _logger.info("unloaded %s", model_id)

    def index(self, tenant: str, *, ready_only: bool = False) -> list[IndexEntry]:
        """What is loaded, and unless only that is wanted, what else the registry has, by model id.

        Raises:
            Unavailable: The registry does not answer; it is asked only for what is not loaded.
        """
        entries = {} if ready_only else self._missing(tenant)
        for (owner, model_id), model in self._loaded.copy().items():
            if owner == tenant:
                entries[model_id] = IndexEntry(model_id, model.number, "READY", self._explain(model))
        return [entries[model_id] for model_id in sorted(entries)]

    def _missing(self, tenant: str) -> dict[str, IndexEntry]:
        """Entries of what the registry has or a restart should bring back; some of it may be loaded by now."""
        missing: dict[str, tuple[int | None, str]] = dict.fromkeys(
            self._published.model_ids(tenant), (None, "it is not loaded")
        )
        missing.update({model_id: why for (owner, model_id), why in self._waiting.copy().items() if owner == tenant})
        with self._change:
            loading = {model_id for owner, model_id in self._changing if owner == tenant}
        return {
            model_id: IndexEntry(model_id, number, "LOADING")
            if model_id in loading
            else IndexEntry(model_id, number, "UNAVAILABLE", reason)
            for model_id, (number, reason) in missing.items()
        }

    @contextmanager
    def _exclusively(self, key: _Key) -> Iterator[None]:
        """Keep other loads and unloads of one model waiting, though not for long: each waits in a worker's thread.

        Raises:
            Unavailable: MODEL_CHANGING if another one goes on.
        """
        with self._change:
            if not self._change.wait_for(lambda: key not in self._changing, MAX_WAIT_S):
                raise Unavailable(
                    "MODEL_CHANGING",
                    f"another load or unload of {key[1]!r} goes on; try again",
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
        """The instruction set that models run on."""
        return self._host.instruction_set

    def count_served(self) -> Counter[tuple[str, str, str, str]]:
        """Counts the loaded models of all tenants by model id, version number, variant and instruction set."""
        models = self._loaded.copy().values()
        return Counter((one.model_id, str(one.number), one.file.variant, self.instruction_set) for one in models)

    def _explain(self, model: LoadedModel) -> str:
        how = "" if model.file.mode == "fast" else f", {model.file.mode}"
        return f"{model.file.variant}{how} on {self._host.instruction_set}: {model.file.reason}"

    def _manifest(self, tenant: str, sha256: str) -> ModelManifest:
        data = self._store.read(tenant, sha256)
        try:
            return ModelManifest.from_bytes(data)
        except InvalidArgument as error:  # the caller gave a name, not the manifest
            raise FailedPrecondition(error.reason, f"the model's manifest is broken: {error.message}") from error

    def _probes(self, tenant: str, manifest: ModelManifest) -> Probes | None:
        if not manifest.probes:
            return None
        sha256 = manifest.file(manifest.probes).sha256
        if (size := self._store.size(tenant, sha256)) > MAX_PROBES_BYTES:  # before it is in memory
            message = (
                f"the version's probes have {size} bytes; at most {MAX_PROBES_BYTES} are read; export the model again"
            )
            raise FailedPrecondition("BAD_PROBES", message)
        try:
            return Probes.from_bytes(self._store.read(tenant, sha256))
        except InvalidArgument as error:  # as above
            raise FailedPrecondition(error.reason, f"{error.message}; export the model again") from error

    def _verify(self, tenant: str, model_id: str, number: int, manifest_sha256: str) -> LoadedModel:
        """Choose the file that this host serves and record it; the cache keeps only that file."""
        manifest = self._manifest(tenant, manifest_sha256)
        probes = self._probes(tenant, manifest)
        with ExitStack() as held:

            @cache
            def fetch(file: ModelFile) -> Path:
                path = self._cache.hold(tenant, file.sha256)
                held.callback(self._cache.release, tenant, file.sha256)
                return path

            # Outside the lock, since it takes long. Without probes, others are needed only if the served one is wrong.
            for needed in manifest.candidates if probes else [manifest.file()]:
                fetch(needed)
            # The wait is limited: a waiting call occupies one of the server's threads, and all of them may be loading.
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
        model = LoadedModel(model_id, number, manifest_sha256, served, choice.engine)
        try:
            self._record(tenant, model)
        except MeshError:
            self._cache.release(tenant, file.sha256)
            raise
        return model

    def _reopen(self, tenant: str, row: LoadedModelRow) -> LoadedModel:
        """Open the file that was chosen on a host of this kind."""
        mode = cast(Mode, row.mode)
        path = self._cache.hold(tenant, row.file_sha256)
        try:
            engine = self._open_engine(path, mode)
        except BaseException:
            self._cache.release(tenant, row.file_sha256)
            raise
        served = ServedFile(row.file_name, row.variant, row.file_sha256, mode, row.reason)
        return LoadedModel(row.model_id, row.number, row.manifest_sha256, served, engine)

    def _record(self, tenant: str, model: LoadedModel) -> None:
        with self._database.transaction() as session:
            session.merge(
                LoadedModelRow(
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
                )
            )

    def _begin_to_restore(self, rows: Iterable[LoadedModelRow]) -> None:
        self._waiting |= {(row.tenant, row.model_id): (row.number, "it is being restored") for row in rows}
        restorer = threading.Thread(target=self._restore, name="restore-models", daemon=True)
        restorer.start()
        self._restorers.append(restorer)

    def _restore(self) -> None:
        """Load what is on record; try again, ever less often, what fails while its dependencies are away."""
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
                if key in self._waiting:  # neither loaded nor unloaded meanwhile
                    self._bring_back(key)
        except Unavailable as error:
            _logger.info("not restoring %s now: %s", key[1], error)

    def _bring_back(self, key: _Key) -> None:
        tenant, model_id = key
        try:
            with self._database.snapshot() as session:
                row = session.get_one(LoadedModelRow, key)
            if row.host == str(self._host):
                model = self._reopen(tenant, row)
            else:
                model = self._verify(tenant, model_id, row.number, row.manifest_sha256)
            self._loaded[key] = model
        except MeshError as error:
            _logger.warning("cannot restore %s: %s", model_id, error)
            self._waiting[key] = (self._waiting[key][0], error.message)
            return
        except Exception:  # a bug that one model shows must keep neither the others nor the server from being ready
            _logger.exception("bug while restoring %s", model_id)
            self._waiting[key] = (self._waiting[key][0], "an internal error; the log has more")
            return
        del self._waiting[key]
        _logger.info("restored %s version %d: %s", model_id, model.number, self._explain(model))
