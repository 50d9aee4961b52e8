"""Runs jobs: a bounded number of worker threads, each claiming one job after the other.

Handlers run in threads of the service, but what is heavy belongs in child processes, which they start and watch. A
handler learns by its lease's events what it has to do: stop on `lost`, wind up on `cancelled`, return on `stopping`.
"""

import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping
from functools import partial

from common.errors import Cancelled, Internal, MeshError
from common.jobs.lease import Lease, LeaseLost
from common.jobs.store import JobStore
from common.names import new_id
from common.telemetry.traces import Attributes, SpanContext, Tracer

_log = logging.getLogger(__name__)

Handler = Callable[[Lease], None]


class JobRunner:
    """Takes up the jobs that it has handlers for.

    A handler ends its job with `lease.complete`. Otherwise its job becomes FAILED if it raises a MeshError, CANCELLED
    if it raises Cancelled or returns after `lease.cancelled`, is given back if it returns after `lease.stopping`, and
    is FAILED (INTERNAL) in all other cases. On LeaseLost, and after `lease.lost`, the job is left alone. A bug on
    the way to or from a handler is logged, and its thread goes on; the job's lease runs out, and it is taken up again.

    Args:
        store: Where the jobs are.
        handlers: What to run for each kind of job; called from several threads.
        lease_s: Seconds after which a job of a process that died is taken up by another.
        num_threads: Number of jobs that run at once, of all kinds together or per kind.
        tracer: Makes a span of every attempt at a job; None makes none.
    """

    def __init__(
        self,
        store: JobStore,
        handlers: Mapping[str, Handler],
        *,
        lease_s: float = 4.0,
        num_threads: int | Mapping[str, int] = 2,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer or Tracer("jobs")
        self._store = store
        self._handlers = dict(handlers)
        self._lease_s = lease_s
        self._owner = f"{socket.gethostname()}/{os.getpid()}/{new_id()}"
        self._stopping = threading.Event()
        self._ended = threading.Event()
        # Held while looking for a job, so that `stop` knows when nobody does any more.
        self._claiming = threading.Lock()
        # Guards the active leases and the number of calls of `wake`.
        self._changed = threading.Condition()
        self._active: set[Lease] = set()
        self._num_wakes = 0
        groups = (
            {(kind,): number for kind, number in num_threads.items()}
            if isinstance(num_threads, Mapping)
            else {tuple(handlers): num_threads}
        )
        self._workers = [
            self._thread(partial(self._work, kinds), f"{'-'.join(kinds)}-{n}")
            for kinds, number in groups.items()
            for n in range(number)
        ]
        self._keepers = [self._thread(self._renew, "job-renewal"), self._thread(self._expire, "job-expiry")]

    def start(self) -> None:
        """Starts to take up jobs; called once."""
        for thread in (*self._keepers, *self._workers):
            thread.start()

    def wake(self) -> None:
        """Makes an idle worker look for jobs at once; call it after a job was committed."""
        with self._changed:
            self._num_wakes += 1
            self._changed.notify_all()

    def stop(self, timeout_s: float) -> None:
        """Stops taking up jobs, asks handlers to return, and gives their jobs back. Harmless before `start`.

        Args:
            timeout_s: Seconds to wait for handlers. A job of one that does not return is given back nevertheless, and
                its handler can publish nothing any more.
        """
        deadline = time.monotonic() + timeout_s
        self._stopping.set()
        # Who is looking for a job just now would take up again what the others give back.
        if self._claiming.acquire(timeout=timeout_s):
            self._claiming.release()
        with self._changed:
            for lease in self._active:
                lease.stopping.set()
            self._changed.notify_all()
        for thread in filter(threading.Thread.is_alive, self._workers):
            thread.join(max(0.0, deadline - time.monotonic()))
        with self._changed:
            late = list(self._active)
        for lease in late:
            _log.warning("the handler of %s did not return in %g s; giving the job back", lease.job.name, timeout_s)
            self._settle(lease, lease.release)
        self._ended.set()
        for thread in filter(threading.Thread.is_alive, self._keepers):
            thread.join(self._lease_s)

    def begin_stop(self, timeout_s: float) -> None:
        """Stops in a thread of its own: jobs wind up while the server drains its calls, and `stop` waits for both.

        Args:
            timeout_s: As in `stop`.
        """
        threading.Thread(target=self.stop, args=(timeout_s,), name="stop-jobs").start()

    def _thread(self, loop: Callable[[], None], name: str) -> threading.Thread:
        def keep_on() -> None:
            while True:
                try:
                    loop()
                    return
                except Exception:  # noqa: BLE001  without its threads a service would look well and run no job ever again
                    _log.exception("bug in %s; it goes on", name)
                self._ended.wait(self._lease_s / 4)

        return threading.Thread(target=keep_on, name=name, daemon=True)

    def _work(self, kinds: Collection[str]) -> None:
        while not self._stopping.is_set():
            with self._changed:
                num_wakes = self._num_wakes
            lease = self._claim(kinds)
            if lease is None:
                self._idle(num_wakes)
                continue
            try:
                self._run(lease)
            finally:
                with self._changed:
                    self._active.discard(lease)

    def _idle(self, num_wakes: int) -> None:
        with self._changed:
            self._changed.wait_for(
                lambda: self._num_wakes != num_wakes or self._stopping.is_set(), timeout=self._lease_s / 4
            )

    def _claim(self, kinds: Collection[str]) -> Lease | None:
        with self._claiming:
            if self._stopping.is_set():
                return None
            try:
                lease = self._store.claim(self._owner, kinds, self._lease_s)
            except MeshError as error:
                _log.warning("cannot look for jobs: %s", error)
                return None
            if lease is not None:
                with self._changed:
                    self._active.add(lease)
                    if self._stopping.is_set():
                        lease.stopping.set()
            return lease

    def _run(self, lease: Lease) -> None:
        """Does the job in the trace of the call that submitted it."""
        attributes: Attributes = {"deepseek.job": lease.job.name, "deepseek.attempt": lease.attempt}
        parent = SpanContext.parse(lease.job.traceparent)
        with self._tracer.span(lease.job.kind, parent, attributes=attributes) as span:
            self._carry_out(lease)
            if lease.error is not None:
                span.fail(lease.error.reason)
                _log.warning("%s failed: %s", lease.job.name, lease.error)

    def _carry_out(self, lease: Lease) -> None:
        _log.info("%s (%s): attempt %d", lease.job.name, lease.job.kind, lease.attempt)
        error: MeshError | None = None
        try:
            self._handlers[lease.job.kind](lease)
        except LeaseLost:
            lease.lost.set()
        except MeshError as raised:
            error = raised
        except Exception:  # noqa: BLE001  whatever a handler does wrong ends its job, not the service
            _log.exception("%s: the handler failed", lease.job.name)
            error = Internal("INTERNAL", "the service failed; its log tells why")
        if lease.finished:
            return
        if lease.lost.is_set():
            _log.warning("%s: lost to another worker", lease.job.name)
        elif error is not None and not isinstance(error, Cancelled):
            failure = error
            self._settle(lease, lambda: lease.fail(failure))
        elif lease.cancelled.is_set() or (error is not None and not lease.stopping.is_set()):
            self._settle(lease, lease.cancel_done)
        elif lease.stopping.is_set():
            self._settle(lease, lease.release)
        else:
            _log.error("%s: the handler returned without an outcome", lease.job.name)
            self._settle(lease, lambda: lease.fail(Internal("INTERNAL", "the service lost track of this job")))

    def _settle(self, lease: Lease, end: Callable[[], None]) -> None:
        try:
            end()
        except LeaseLost:
            _log.warning("%s: lost to another worker", lease.job.name)
        except MeshError as error:
            # The lease runs out, and whoever takes the job up does it again.
            _log.warning("%s: its outcome could not be stored: %s", lease.job.name, error)

    def _renew(self) -> None:
        while not self._ended.wait(self._lease_s / 4):
            try:
                self._store.renew(self._leases(), self._lease_s)
            except MeshError as error:
                _log.warning("leases could not be renewed: %s", error)

    def _expire(self) -> None:
        # Apart from renewal, which may hang with the database.
        while not self._ended.wait(self._lease_s / 8):
            for lease in self._leases():
                lease.expire()

    def _leases(self) -> list[Lease]:
        with self._changed:
            return [lease for lease in self._active if not lease.lost.is_set() and not lease.finished]
