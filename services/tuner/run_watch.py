"""Follows the runs of a study: one thread per run, and one queue of what happens.

A thread reopens its stream until the run has ended, so a trainer that restarts, or is gone for hours, loses nothing.
"""

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from common.errors import MeshError, NotFound
from services.tuner.ports import Evaluation, Evaluations, Trainer

_FIRST_DELAY_S = 0.2
_LONGEST_DELAY_S = 5.0
_POLL_S = 1.0

Happening = tuple[int, Evaluation | MeshError | None]
"""Number of a trial and what happened to its run: an evaluation; an error of the trainer, which will be asked again; or
None, because the run has ended, or does not exist any more."""


class RunWatch:
    """Follows runs of one tenant until it is closed.

    Args:
        trainer: Trainer that executes the runs.
        tenant: Tenant that owns the runs.
        turns: Semaphore that bounds the number of streams of this process, because the trainer has few. Runs without a
            stream are asked for news once per second.

    Attributes:
        events: What happens to the runs, in order for each run.
    """

    def __init__(self, trainer: Trainer, tenant: str, turns: threading.BoundedSemaphore) -> None:
        self.events: queue.SimpleQueue[Happening] = queue.SimpleQueue()
        self._trainer = trainer
        self._tenant = tenant
        self._turns = turns
        self._lock = threading.Lock()
        self._streams: set[Evaluations] = set()
        self._closed = threading.Event()

    def start(self, number: int, run: str) -> None:
        """Follows the run of a trial, from its first event."""
        thread = threading.Thread(target=self._follow, args=(number, run), name=f"watch-{run}", daemon=True)
        thread.start()

    def close(self) -> None:
        """Ends all streams."""
        self._closed.set()
        with self._lock:
            for stream in self._streams:
                stream.cancel()

    def _follow(self, number: int, run: str) -> None:
        after, delay_s = 0, _FIRST_DELAY_S
        while not self._closed.is_set():
            is_live = self._turns.acquire(blocking=False)
            try:
                # Asked before the events are read, so that no event of a run that has ended is missed.
                has_ended = is_live or self._trainer.find_end(self._tenant, run).state is not None
                with self._stream(run, after, wait=is_live) as stream:
                    for sequence, evaluation in stream:
                        after, delay_s = sequence, _FIRST_DELAY_S
                        if evaluation is not None:
                            self.events.put((number, evaluation))
            except NotFound:
                self.events.put((number, None))
                return
            except MeshError as error:
                self.events.put((number, error))
                self._closed.wait(delay_s)
                delay_s = min(2 * delay_s, _LONGEST_DELAY_S)
            else:
                if has_ended:
                    self.events.put((number, None))
                    return
                self._closed.wait(_POLL_S)
            finally:
                if is_live:
                    self._turns.release()

    @contextmanager
    def _stream(self, run: str, after: int, *, wait: bool) -> Iterator[Evaluations]:
        """Opens a stream, which `close` cancels."""
        stream = self._trainer.evaluations(self._tenant, run, after=after, wait=wait)
        with self._lock:
            self._streams.add(stream)
            if self._closed.is_set():
                stream.cancel()
        try:
            yield stream
        finally:
            with self._lock:
                self._streams.discard(stream)
