"""The faults; each one does harm and repairs it before it returns."""

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
from tests.harness.processes import wait_until, workers

CUT_EVERY_S = 0.3
DELAY_S = 0.03
_WORKERS_START_S = 120


class Strikes:
    """Faults; `Trial.fault` is the name of a method.

    Args:
        mesh: The mesh to break.
        restarts_s: Gets the duration of each restart, in seconds.
    """

    def __init__(self, mesh: BrokenMesh, restarts_s: list[float]) -> None:
        self._mesh = mesh
        self._restarts_s = restarts_s

    def strike(self, trial: Trial) -> None:
        """Carries out the fault of a trial; returns when it is repaired and all services are ready."""
        if trial.needs_workers:
            wait_until(lambda: bool(workers(self._mesh.home)), "workers to start", timeout_s=_WORKERS_START_S)
            time.sleep(trial.after_s / 3)
        getattr(self, trial.fault)(trial)
        for name in self._mesh.services:
            self._mesh.wait_until_ready(name)

    def kill(self, trial: Trial) -> None:
        """Kills a service with SIGKILL, as the kernel may."""
        self._mesh.services[trial.service].kill()
        time.sleep(trial.lasts_s)
        self._restart(trial.service)

    def terminate(self, trial: Trial) -> None:
        """Ends a service with SIGTERM: accepted calls finish, new ones are refused."""
        self._mesh.services[trial.service].stop()
        time.sleep(trial.lasts_s)
        self._restart(trial.service)

    def kill_worker(self, trial: Trial) -> None:
        """Kills the processes that train."""
        for pid in workers(self._mesh.home):
            with contextlib.suppress(ProcessLookupError):  # it has just finished
                os.kill(pid, signal.SIGKILL)

    def cut(self, trial: Trial) -> None:
        """Breaks every connection to a service, repeatedly."""
        deadline = time.monotonic() + trial.lasts_s
        while time.monotonic() < deadline:
            self._mesh.proxies[trial.service].cut()
            time.sleep(CUT_EVERY_S)

    def stall(self, trial: Trial) -> None:
        """Leaves every connection to a service half-open: nothing comes through, and neither side learns why."""
        self._mesh.proxies[trial.service].stall()

    def slow(self, trial: Trial) -> None:
        """Delays all traffic to and from a service."""
        self._mesh.proxies[trial.service].delay_s = DELAY_S
        time.sleep(trial.lasts_s)
        self._mesh.proxies[trial.service].delay_s = 0

    def store_away(self, trial: Trial) -> None:
        """Removes the store's directory for a while, or cuts off its server."""
        proxy = self._mesh.store_proxy
        if proxy:
            proxy.refuse()
            time.sleep(trial.lasts_s)
            proxy.accept()
        else:
            with _away(self._mesh.home / "store"):
                time.sleep(trial.lasts_s)

    def database_away(self, trial: Trial) -> None:
        """Stops the database server, or leaves its connections half-open in trials with an odd number; or removes the
        directory of the SQLite files."""
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
        """Fills the disk that holds state, store and working space."""
        filler = self._mesh.home / "filler"
        deadline = time.monotonic() + trial.lasts_s
        with filler.open("wb", buffering=0) as file:
            while time.monotonic() < deadline:
                with contextlib.suppress(OSError):  # full; space that others free is filled as well
                    while file.write(bytes(1 << 16)):
                        pass
                time.sleep(0.02)
        filler.unlink()

    def pause(self, trial: Trial) -> None:
        """Suspends a process until another one has taken over its jobs."""
        first = self._mesh.services[trial.service]
        first.pause()
        try:
            if self._is_locked(trial.service):
                # It was suspended within a transaction: SQLite lets no other process write until it continues.
                time.sleep(trial.lasts_s)
                return
            with second(self._mesh, trial.service):
                time.sleep(trial.lasts_s)
                first.resume()
                time.sleep(1)
        finally:
            first.resume()

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
