"""Restarts services of an embedded mesh if they exit while a program uses the mesh.

If a service keeps exiting, the program is interrupted, so that it does not wait for the service forever.
"""

import signal
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from common.errors import MeshError
from deepseek.client import Mesh
from deepseek.embedded.home import how_it_ended
from deepseek.embedded.mesh import EmbeddedMesh

MAX_RESTARTS = 3
"""Maximum number of times that each service is restarted."""

PATIENCE_S = 30.0
"""Time for which a client of a supervised mesh retries unary calls to an unavailable service, in seconds."""

_POLL_INTERVAL_S = 0.2


class Supervisor:
    """Watches the services that this process started.

    A supervisor may be used only in the main thread. Inside a `with supervisor.client()` block, no other thread
    may use `mesh`.

    Args:
        mesh: The mesh.
        on_restart: Called in a background thread each time a service is restarted, with a message for the user.
    """

    def __init__(self, mesh: EmbeddedMesh, on_restart: Callable[[str], None]) -> None:
        self._mesh = mesh
        self._on_restart = on_restart
        self._leaving = threading.Event()
        self._failure: MeshError | None = None

    @contextmanager
    def client(self) -> Iterator[Mesh]:
        """Yields a client of the mesh, and restarts services that exit during the `with` block.

        A service is not restarted if it was stopped (its exit status is 0), or if it has already been restarted
        `MAX_RESTARTS` times. Instead, the block is interrupted, and this context manager raises an error.

        Raises:
            FailedPrecondition: A service exited and was not restarted. The error's reason is the one that the service
                logged, or SERVICE_ENDED if it logged none.
        """
        main = threading.main_thread().ident
        assert main == threading.get_ident(), "only the main thread can be interrupted"
        # The main thread is interrupted with SIGUSR1, because SIGINT is ignored in programs that a shell starts in the
        # background.
        on_interrupt = signal.getsignal(signal.SIGINT)
        before = signal.signal(signal.SIGUSR1, on_interrupt if callable(on_interrupt) else signal.default_int_handler)
        watcher = threading.Thread(target=self._watch, args=(main,), name="mesh-supervisor", daemon=True)
        watcher.start()
        try:
            with Mesh(self._mesh.file, patience_s=PATIENCE_S) as client:
                yield client
        except KeyboardInterrupt:
            if self._failure:
                raise self._failure from None
            raise
        finally:
            self._leaving.set()
            watcher.join()
            signal.signal(signal.SIGUSR1, before)

    def _watch(self, main: int) -> None:
        num_restarts: Counter[str] = Counter()
        while not self._leaving.wait(_POLL_INTERVAL_S):
            for name, exit_status in self._mesh.ended():
                num_restarts[name] += 1
                if exit_status == 0 or num_restarts[name] > MAX_RESTARTS:
                    self._failure = self._mesh.failure(name, exit_status)
                    signal.pthread_kill(main, signal.SIGUSR1)
                    return
                how = how_it_ended(exit_status)
                self._on_restart(f"{name} {how}; restarted ({num_restarts[name]} of {MAX_RESTARTS} times)")
                self._mesh.start(name)
