"""Passes directives on to the workers of the runs that this process executes.

A directive that this process accepts is passed on at once. One that another trainer has accepted is found in the
database, by the thread that follows the workers. A directive that cannot be passed on now is passed on later.
"""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from common.errors import MeshError
from deepseek.trainjob import inbox
from services.trainer.directives import DirectiveStore
from services.trainer.run import Run

_POLL_S = 0.5

_logger = logging.getLogger(__name__)


class Mailbox:
    """The directives of one start of the workers of a run. Thread-safe.

    Args:
        store: Store of the directives.
        run: The run.
        directory: Directory of the job.
        after: Number of the last directive that the workers got when they were started.
    """

    def __init__(self, store: DirectiveStore, run: Run, directory: Path, after: int) -> None:
        self._store = store
        self._run = run
        self._directory = directory
        self._after = after
        self._looked_at = 0.0
        self._lock = threading.Lock()

    def deliver(self) -> None:
        """Passes new directives on."""
        try:
            with self._lock:
                self._looked_at = time.monotonic()
                found = self._store.after(self._run, self._after)
                if found:
                    inbox.append(self._directory, [one.directive for one in found])
                    self._after = found[-1].number
        except (MeshError, OSError) as error:
            _logger.warning("directives to %s are delayed: %s", self._run.name, error)

    def poll(self) -> None:
        """Passes on what other trainers have accepted; looks at most twice per second."""
        if time.monotonic() - self._looked_at >= _POLL_S:
            self.deliver()


class Mailboxes:
    """The mailboxes of the runs that this process executes. Thread-safe.

    Args:
        store: Store of the directives.
    """

    def __init__(self, store: DirectiveStore) -> None:
        self._store = store
        self._open: dict[tuple[str, str], Mailbox] = {}
        self._lock = threading.Lock()

    @contextmanager
    def open(self, run: Run, directory: Path, after: int) -> Iterator[Mailbox]:
        """Passes directives on within the `with` block; see `Mailbox` for the arguments."""
        key, mailbox = (run.tenant, run.run_id), Mailbox(self._store, run, directory, after)
        with self._lock:
            self._open[key] = mailbox
        try:
            yield mailbox
        finally:
            with self._lock, suppress(KeyError):
                if self._open[key] is mailbox:
                    del self._open[key]

    def deliver(self, run: Run) -> None:
        """Passes the new directives of a run on, if this process executes it."""
        with self._lock:
            mailbox = self._open.get((run.tenant, run.run_id))
        if mailbox:
            mailbox.deliver()
