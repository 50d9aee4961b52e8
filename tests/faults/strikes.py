"""The faults: each does its harm and makes it good again before it returns."""

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.faults.mesh import BrokenMesh, second
from tests.faults.trials import Trial
from tests.processes import wait_until, workers

CUT_EVERY_S = 0.3
DELAY_S = 0.03
_WORKERS_START_S = 30


class Strikes:
    """Faults by the names that trials give them.

    Args:
        mesh: Where they strike.
        restarts_s: Takes the seconds that each restart took.
    """

    def __init__(self, mesh: BrokenMesh, restarts_s: list[float]) -> None:
        self._mesh = mesh
        self._restarts_s = restarts_s

    def strike(self, trial: Trial) -> None:
        """Carries out a trial's fault, and returns once it is repaired and everything is ready again."""
        if trial.needs_workers:
            wait_until(lambda: bool(workers(self._mesh.home)), "workers to start", timeout_s=_WORKERS_START_S)
            time.sleep(trial.after_s / 3)
        getattr(self, trial.fault)(trial)
        for name in self._mesh.services:
            self._mesh.wait_until_ready(name)

    def kill(self, trial: Trial) -> None:
        """SIGKILL, as a power cut or the kernel does it."""
        self._mesh.services[trial.service].kill()
        time.sleep(trial.lasts_s)
        self._restart(trial.service)

    def terminate(self, trial: Trial) -> None:
        """SIGTERM: calls that were accepted finish, new ones are refused."""
        self._mesh.services[trial.service].stop()
        time.sleep(trial.lasts_s)
        self._restart(trial.service)

    def kill_worker(self, trial: Trial) -> None:
        """SIGKILL of a process that trains."""
        for pid in workers(self._mesh.home):
            with contextlib.suppress(ProcessLookupError):  # it has just finished
                os.kill(pid, signal.SIGKILL)

    def cut(self, trial: Trial) -> None:
        """Every connection to a service breaks, again and again."""
        deadline = time.monotonic() + trial.lasts_s
        while time.monotonic() < deadline:
            self._mesh.proxies[trial.service].cut()
            time.sleep(CUT_EVERY_S)

    def stall(self, trial: Trial) -> None:
        """Every connection to a service is half-open for good: nothing comes through, and nobody is told."""
        self._mesh.proxies[trial.service].stall()

    def slow(self, trial: Trial) -> None:
        """What goes to a service and comes from it takes its time."""
        self._mesh.proxies[trial.service].delay_s = DELAY_S
        time.sleep(trial.lasts_s)
        self._mesh.proxies[trial.service].delay_s = 0

    def store_away(self, trial: Trial) -> None:
        """The store's directory is gone, or its server does not answer."""
        proxy = self._mesh.store_proxy
        if proxy:
            proxy.refuse()
            time.sleep(trial.lasts_s)
            proxy.accept()
        else:
            with _away(self._mesh.home / "store"):
                time.sleep(trial.lasts_s)

    def database_away(self, trial: Trial) -> None:
        """The database's server is stopped, or in odd trials every connection to it is half-open for good; or the
        directory of the SQLite files is gone."""
        server, proxy = self._mesh.database, self._mesh.database_proxy
        if proxy and trial.number % 2:
            proxy.stall()
            time.sleep(trial.lasts_s)
        elif server:
            server.stop()
            time.sleep(trial.lasts_s)
            server.start()
        else:
            with _away(self._mesh.home / "state"):
                time.sleep(trial.lasts_s)

    def disk_full(self, trial: Trial) -> None:
        """The disk that holds state, store and working space has no byte left."""
        filler = self._mesh.home / "filler"
        deadline = time.monotonic() + trial.lasts_s
        with filler.open("wb", buffering=0) as file:
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError):  # full; what others free is taken too
                    while file.write(bytes(1 << 16)):
                        pass
                time.sleep(0.02)
        filler.unlink()

    def pause(self, trial: Trial) -> None:
        """A process stops in its tracks, another one takes its jobs over, and it wakes again."""
        first = self._mesh.services[trial.service]
        first.pause()
        try:
            if self._is_locked(trial.service):
                # It sleeps within a transaction: nobody can take over what SQLite guards, and all wait until it wakes.
                time.sleep(trial.lasts_s)
                return
            with second(self._mesh, trial.service):
                time.sleep(trial.lasts_s)
                first.go_on()
                time.sleep(1)
        finally:
            first.go_on()

    def _is_locked(self, service: str) -> bool:
        if self._mesh.database:
            return False
        database = sqlite3.connect(self._mesh.home / "state" / f"{service}.db", timeout=0.2, isolation_level=None)
        with contextlib.closing(database):
            try:
                database.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError:
                return True
            database.execute("ROLLBACK")
        return False

    def _restart(self, service: str) -> None:
        self._restarts_s.append(self._mesh.restart(service))


@contextmanager
def _away(folder: Path) -> Iterator[None]:
    elsewhere = folder.with_name(f"{folder.name}.away")
    folder.rename(elsewhere)
    try:
        yield
    finally:
        elsewhere.rename(folder)
