"""Runs jobs in a bounded number of worker threads, each of which claims one job after another.

Handlers run in threads of the service and start child processes for heavy work. A handler reacts to the events of its
lease: it stops on `lost`, cleans up on `cancelled`, and returns on `stopping`.
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

_logger = logging.getLogger(__name__)

Handler = Callable[[Lease], None]

LEASE_S = 4.0
"""Default duration of a lease, in seconds."""

NUM_THREADS = 2
"""Default number of concurrent jobs."""


class JobRunner:
    """Claims and runs the jobs for which it has handlers.

    A handler ends its job with `lease.complete`. Otherwise, the job becomes FAILED if the handler raises a MeshError
    other than Cancelled, and CANCELLED if the handler raises Cancelled or returns after `lease.cancelled` was set. If
    the handler returns after `lease.stopping` was set, the job is released. If the handler raises LeaseLost, or
    `lease.lost` is set, the job is left unchanged. In all other cases, the job becomes FAILED (INTERNAL). A bug outside
    a handler is logged, and the thread continues; the job is claimed again once its lease has expired.

    Args:
        store: Store of the jobs.
        handlers: Handlers by kind of job; called from several threads.
        lease_s: Duration of a lease in seconds. If this process dies, others may claim its jobs after this time.
        num_threads: Number of concurrent jobs: a total, or a mapping with a number per kind.
        tracer: Tracer that records one span per attempt; None means that no spans are exported.
    """

    def __init__(
        self,
        store: JobStore,
        handlers: Mapping[str, Handler],
        *,
        lease_s: float = LEASE_S,
        num_threads: int | Mapping[str, int] = NUM_THREADS,
        tracer: Tracer | None = None,
    ) -> None:
        self._tracer = tracer or Tracer("jobs")
        self._store = store
        self._handlers = dict(handlers)
        self._lease_s = lease_s
        self._owner = f"{socket.gethostname()}/{os.getpid()}/{new_id()}"
        self._stopping = threading.Event()
        self._ended = threading.Event()
        self._renewal_due = threading.Event()
        # Held during a claim, so that `stop` can wait for the last one.
        self._claiming = threading.Lock()
        # Guards the active leases and the number of calls to `wake`.
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
        self._lease_threads = [self._thread(self._renew, "job-renewal"), self._thread(self._expire, "job-expiry")]

    def start(self) -> None:
        """Starts claiming jobs. Must be called only once."""
        for thread in (*self._lease_threads, *self._workers):
            thread.start()

    def wake(self) -> None:
        """Makes idle workers look for a job immediately. Call it after a new job was committed."""
        with self._changed:
            self._num_wakes += 1
            self._changed.notify_all()

    def refresh(self) -> None:
        """Renews the leases immediately. Call it after a job was cancelled, so that its handler notices."""
        self._renewal_due.set()

    def stop(self, timeout_s: float) -> None:
        """Stops claiming jobs, asks handlers to return, and releases their jobs. May be called before `start`.

        Args:
            timeout_s: Seconds to wait for handlers. The job of a handler that has not returned by then is released
                anyway, and the handler can no longer publish anything.
        """
        deadline = time.monotonic() + timeout_s
        self._stopping.set()
        # Otherwise, a claim in progress could take a job that another thread has just released.
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
            _logger.warning("the handler of %s did not return in %g s; releasing the job", lease.job.name, timeout_s)
            self._settle(lease, lease.release)
        self._ended.set()
        self._renewal_due.set()
        for thread in filter(threading.Thread.is_alive, self._lease_threads):
            thread.join(self._lease_s)

    def begin_stop(self, timeout_s: float) -> None:
        """Calls `stop` in another thread, so that jobs end while the server drains its calls.

        Args:
            timeout_s: See `stop`.
        """
        threading.Thread(target=self.stop, args=(timeout_s,), name="stop-jobs").start()

    def _thread(self, loop: Callable[[], None], name: str) -> threading.Thread:
        def run_until_done() -> None:
            while True:
                try:
                    loop()
                    return
                except Exception:  # without its threads, a service would look healthy but run no jobs
                    _logger.exception("bug in %s; restarting it", name)
                self._ended.wait(self._lease_s / 4)

        return threading.Thread(target=run_until_done, name=name, daemon=True)

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
                _logger.warning("cannot claim jobs: %s", error)
                return None
            if lease is not None:
                with self._changed:
                    self._active.add(lease)
                    if self._stopping.is_set():
                        lease.stopping.set()
            return lease

    def _run(self, lease: Lease) -> None:
        """Runs the job in the trace of the call that submitted it."""
        attributes: Attributes = {"deepseek.job": lease.job.name, "deepseek.attempt": lease.attempt}
        parent = SpanContext.parse(lease.job.traceparent)
        with self._tracer.span(lease.job.kind, parent, attributes=attributes) as span:
            self._handle(lease)
            if lease.error is not None:
                span.fail(lease.error.reason)
                _logger.warning("%s failed: %s", lease.job.name, lease.error)

    def _handle(self, lease: Lease) -> None:
        _logger.info("%s (%s): attempt %d", lease.job.name, lease.job.kind, lease.attempt)
        error: MeshError | None = None
        try:
            self._handlers[lease.job.kind](lease)
        except LeaseLost:
            lease.lost.set()
        except MeshError as raised:
            error = raised
        except Exception:  # a bug in a handler ends its job, not the service
            _logger.exception("%s: the handler failed", lease.job.name)
            error = Internal("INTERNAL", "the service failed; see its log")
        if lease.finished:
            return
        if lease.lost.is_set():
            _logger.warning("%s: lost to another worker", lease.job.name)
        elif error is not None and not isinstance(error, Cancelled):
            failure = error
            self._settle(lease, lambda: lease.fail(failure))
        elif lease.cancelled.is_set() or (error is not None and not lease.stopping.is_set()):
            self._settle(lease, lease.mark_cancelled)
        elif lease.stopping.is_set():
            self._settle(lease, lease.release)
        else:
            _logger.error("%s: the handler returned without an outcome", lease.job.name)
            self._settle(lease, lambda: lease.fail(Internal("INTERNAL", "the job ended without an outcome")))

    def _settle(self, lease: Lease, end: Callable[[], None]) -> None:
        try:
            end()
        except LeaseLost:
            _logger.warning("%s: lost to another worker", lease.job.name)
        except MeshError as error:
            # The lease expires, and the next worker repeats the job.
            _logger.warning("%s: cannot store its outcome: %s", lease.job.name, error)

    def _renew(self) -> None:
        while True:
            self._renewal_due.wait(self._lease_s / 4)
            self._renewal_due.clear()
            if self._ended.is_set():
                return
            try:
                self._store.renew(self._leases(), self._lease_s)
            except MeshError as error:
                _logger.warning("cannot renew leases: %s", error)

    def _expire(self) -> None:
        # This loop has its own thread, because the thread that renews leases hangs if the database does.
        while not self._ended.wait(self._lease_s / 8):
            for lease in self._leases():
                lease.expire()

    def _leases(self) -> list[Lease]:
        with self._changed:
            return [lease for lease in self._active if not lease.lost.is_set() and not lease.finished]
