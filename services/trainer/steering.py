"""Steers runs: accepts the directives of a stream, and yields the events of the run and the other answers.

One thread per stream reads the requests, so that events flow while the client sends nothing. Events are read from the
database, so a slow client costs no memory.
"""

import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from common.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    MeshError,
    NotFound,
    ResourceExhausted,
)
from common.jobs.history import RunEvent
from deepseek.steering.directive import Directive
from services.trainer.answers import Ack, refused
from services.trainer.directives import DirectiveStore
from services.trainer.mailboxes import Mailboxes
from services.trainer.run import Run
from services.trainer.runs import RunStore

_MAX_ACKS = 1000
"""Number of answers that a client has not read at which its requests are no longer read."""
_GRACE_S = 0.5
"""Seconds for which the directives of a client are still answered after the run has ended."""
_ANSWERED = (InvalidArgument, NotFound, AlreadyExists, FailedPrecondition, ResourceExhausted)


@dataclass(frozen=True)
class SteerRequest:
    """A message of a client.

    Attributes:
        name: Name of the run; empty except in the first message.
        after: Sequence number after which events are sent; 0 except in the first message.
        answers_only: Whether only answers are sent; False except in the first message.
        directive_id: Id of the directive; empty without a directive.
        directive: Function that returns the directive, or raises the error of a directive that cannot be read; None
            without a directive.
    """

    name: str
    after: int
    answers_only: bool
    directive_id: str
    directive: Callable[[], Directive] | None


class SteeringService:
    """Steers runs. Thread-safe.

    Args:
        runs: Run store.
        directives: Directives in the same database.
        mailboxes: Passes directives on.
    """

    def __init__(self, runs: RunStore, directives: DirectiveStore, mailboxes: Mailboxes) -> None:
        self._runs = runs
        self._directives = directives
        self._mailboxes = mailboxes

    def steer(
        self, tenant: str, requests: Iterator[SteerRequest], *, stop: threading.Event
    ) -> Iterator[RunEvent | Ack]:
        """Yields events and answers until the run ends, or the client has stopped sending and has all its answers.

        Args:
            tenant: Tenant of the caller.
            requests: Messages of the client.
            stop: Ends the iteration when it is set.

        Raises:
            NotFound: RUN_NOT_FOUND.
            InvalidArgument: MISSING_FIELD, BAD_NAME or BAD_VALUE.
            FailedPrecondition: EXTERNAL_RUN.
        """
        first = next(requests, None)
        if first is None or not first.name:
            raise InvalidArgument("MISSING_FIELD", "the first message must name the run", field="name")
        if first.after < 0:
            message = f"after_sequence is {first.after}; it must not be negative"
            raise InvalidArgument("BAD_VALUE", message, field="after_sequence")
        run = self._runs.close_history(tenant, first.name)
        if run.is_external:
            message = f"a program outside the mesh executes {run.name}, so the trainer cannot steer it"
            raise FailedPrecondition("EXTERNAL_RUN", message, field="name")
        after = self._runs.last_sequence(run) if first.answers_only else first.after
        answers = _Answers(self._runs.wake)
        reader = threading.Thread(
            target=self._read, args=(run, first, requests, answers, stop), name=f"steer-{run.run_id}", daemon=True
        )
        reader.start()
        return self._answer(run, first, after, answers, stop)

    def _answer(
        self, run: Run, first: SteerRequest, after: int, answers: "_Answers", stop: threading.Event
    ) -> Iterator[RunEvent | Ack]:
        has_ended = run.job.state.final and not self._runs.stored(run, after)
        while not stop.is_set():
            num_changes = self._runs.num_changes
            is_complete = answers.is_complete  # read first, so that the answers are among the events that follow
            events = self._runs.stored(run, after)
            for event in events:
                is_answer = event.kind == "directive" and answers.settle(event.payload["directive_id"])
                if is_answer or not first.answers_only:
                    yield event
                after, has_ended = event.sequence, event.closes
            acks = answers.take()
            yield from acks
            if events or acks:
                continue
            if is_complete or (has_ended and answers.wait_until_read(_GRACE_S)):
                return
            if has_ended:
                yield from answers.take()
                return
            self._runs.wait(num_changes)
            if self._runs.close_history(run.tenant, run.name).job.state.final and not self._runs.stored(run, after):
                has_ended = True

    def _read(
        self,
        run: Run,
        first: SteerRequest,
        requests: Iterator[SteerRequest],
        answers: "_Answers",
        stop: threading.Event,
    ) -> None:
        """Accepts the directives of a stream, in a thread of its own."""
        try:
            request: SteerRequest | None = first
            while request is not None and answers.wait_for_room(stop):
                others = {"name": request.name, "after_sequence": request.after, "answers_only": request.answers_only}
                if request is not first and (field := next((one for one, value in others.items() if value), "")):
                    raise InvalidArgument("BAD_VALUE", f"only the first message may have {field}", field=field)
                if request.directive:
                    self._accept(run, request.directive_id, request.directive, answers)
                elif request is not first:
                    raise InvalidArgument("MISSING_FIELD", "the message has no directive", field="directive")
                request = next(requests, None)
        except MeshError as error:
            answers.fail(error)
        except Exception as error:  # noqa: BLE001 - e.g. that the client has gone; the thread of the call raises it
            answers.fail(error)
        answers.end()

    def _accept(self, run: Run, directive_id: str, read: Callable[[], Directive], answers: "_Answers") -> None:
        directive = Directive(directive_id, "")
        try:
            directive = read()
            answers.expect(directive_id)
            ack = self._directives.accept(run, directive)
        except _ANSWERED as error:
            ack = refused(directive, error)
        if ack is None:
            self._mailboxes.deliver(run)
        else:
            answers.add(ack)


class _Answers:
    """What one stream has to answer. Thread-safe.

    Args:
        wake: Wakes the thread of the call.
    """

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._changed = threading.Condition()
        self._acks: deque[Ack] = deque()
        self._expected: set[str] = set()  # ids of directives whose answers will be events
        self._error: Exception | None = None
        self._has_ended = False

    @property
    def is_complete(self) -> bool:
        """Whether the client sends no more, and every directive has been answered."""
        with self._changed:
            return self._has_ended and not self._expected and not self._acks and not self._error

    def expect(self, directive_id: str) -> None:
        """Notes that a directive will be answered."""
        with self._changed:
            self._expected.add(directive_id)

    def settle(self, directive_id: str) -> bool:
        """Notes that an event has answered a directive; returns whether the directive is one of this stream."""
        with self._changed:
            is_expected = directive_id in self._expected
            self._expected.discard(directive_id)
            return is_expected

    def add(self, ack: Ack) -> None:
        """Adds an answer that is no event of the run, or not a new one."""
        with self._changed:
            self._expected.discard(ack["directive_id"])
            self._acks.append(ack)
        self._wake()

    def fail(self, error: Exception) -> None:
        """Ends the stream with an error."""
        with self._changed:
            self._error = error
        self._wake()

    def end(self) -> None:
        """Notes that the client sends no more."""
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()
        self._wake()

    def take(self) -> Sequence[Ack]:
        """Returns the answers since the last call.

        Raises:
            Exception: The error with which the stream ends.
        """
        with self._changed:
            if self._error and not self._acks:
                raise self._error
            acks = list(self._acks)
            self._acks.clear()
            self._changed.notify_all()
            return acks

    def wait_for_room(self, stop: threading.Event) -> bool:
        """Waits until the client has read enough answers. Returns False if the stream has ended."""
        with self._changed:
            while len(self._acks) >= _MAX_ACKS and not stop.is_set():
                self._changed.wait(_GRACE_S)
        return not stop.is_set()

    def wait_until_read(self, timeout_s: float) -> bool:
        """Waits until the client sends no more; returns whether this is so and nothing is left to answer."""
        with self._changed:
            self._changed.wait_for(lambda: self._has_ended, timeout_s)
        return self.is_complete
