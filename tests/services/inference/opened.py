"""Repositories of one home that are opened and closed as restarts do, and what they answer."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

import services.inference
from common.artifacts import ArtifactStore
from common.channel import open_channel
from common.database import Database
from services.inference.clients.registry import RegistryClient
from services.inference.engine import Engine
from services.inference.loaded import HostKind
from services.inference.repository import Repository
from tests.harness.processes import wait_until
from tests.services.inference.models import TENANT

ONES = np.ones((1, 3), np.float32)
NOBODY = "127.0.0.1:1"
HOST = HostKind("avx2", "cpu, 1 threads, onnxruntime 1")
PLAIN = "int8 on avx2: it is not quantized, so its accuracy needs no check"


class Opened:
    """Makes repositories on one database, one cache and one store, as restarts do."""

    def __init__(self, tmp_path: Path, store: ArtifactStore, registry_address: str) -> None:
        self._tmp_path = tmp_path
        self._store = store
        self._registry_address = registry_address

    @contextmanager
    def __call__(
        self, *, registry: str = "", open_engine: Callable[..., Engine] = Engine, host: HostKind = HOST
    ) -> Iterator[Repository]:
        with ExitStack() as owned:
            database = Database(f"sqlite:///{self._tmp_path}/inference.db")
            owned.callback(database.close)
            database.migrate(Path(services.inference.__file__).parent / "migrations")
            channel = owned.enter_context(open_channel(registry or self._registry_address, retry=False))
            repository = Repository(
                database,
                self._store,
                RegistryClient(channel),
                self._tmp_path / "cache",
                open_engine,
                host,
                restore_delay_s=0.05,
            )
            repository.start()
            owned.callback(repository.close)
            wait_until(lambda: repository.ready, "the models to be restored")
            yield repository


def answer(repository: Repository, model_id: str = "m", version: str = "") -> float:
    """What the model makes of ones: the factor it was built with."""
    [(_, result)] = repository.get(TENANT, model_id, version).engine.run({"x": ONES})
    return float(result[0, 0])


def cached_files(tmp_path: Path) -> list[str]:
    return sorted(path.stem for path in (tmp_path / "cache").rglob("*") if path.is_file())
