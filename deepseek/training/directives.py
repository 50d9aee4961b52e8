"""Applies directives to a training, each in one step, which is the same on all ranks.

Rank 0 receives the directives and tells the other ranks. A directive that has been applied before, in an attempt that
has crashed since, is applied in the same step again. No step waits for a directive: rank 0 only looks whether there is
one that is due. A directive that cannot be applied is answered with an error, and the training continues.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from common.errors import DeadlineExceeded, FailedPrecondition, MeshError
from deepseek.steering.directive import Directive
from deepseek.steering.policy import Policy
from deepseek.training.directive_queue import DirectiveQueue
from deepseek.training.events import CheckpointEvent, DirectiveEvent, Event, Values, WarningEvent
from deepseek.training.parallel import Ranks
from deepseek.training.restoring import raise_shared, restore, to_json
from deepseek.training.steering import Steering
from deepseek.training.step import TrainingStep

_AFTER_STEP = ("checkpoint", "stop")


class Directives:
    """The directives of one call of `fit`. Not thread-safe; every rank has one.

    Args:
        steering: Values and policy of the training.
        step: Training step.
        ranks: The processes that train together.
        receive: Function that returns the directives that have arrived since its last call, without waiting; called on
            rank 0. Those that an earlier attempt has applied must come first, in the order in which it applied them.
        fetch: Function that returns a file with the checkpoint of a directive `restore`, given its value; called on
            rank 0, which deletes the file.
    """

    def __init__(
        self,
        steering: Steering,
        step: TrainingStep,
        ranks: Ranks,
        receive: Callable[[], Sequence[Directive]],
        fetch: Callable[[Any], Path] | None = None,
    ) -> None:
        self._steering = steering
        self._step = step
        self._ranks = ranks
        self._receive = receive
        self._fetch = fetch
        self._known: set[str] = set()
        self._queue = DirectiveQueue(self._open)  # on rank 0, and not yet known to the others
        # With several ranks, the others learn of a directive one step early, so that they can act before that step.
        self._num_early = int(ranks.world_size > 1)
        self._pending: list[Directive] = []
        self._after_step: list[tuple[Directive, Values]] = []
        self._news: list[Event] = []

    def begin(self) -> None:
        """Receives the directives that are there before the first step, and waits for the first policies among them.

        Every rank must call this method.
        """
        self.poll()
        self._queue.wait()
        self.take()

    def poll(self) -> bool:
        """Looks for new directives on rank 0; returns whether `take` would find any."""
        if self._ranks.rank:
            return False
        for directive in self._receive():
            if directive.id not in self._known:  # otherwise, it was passed on twice, because that seemed to have failed
                self._known.add(directive.id)
                self._queue.add(directive, self._step.step + 1)
        return self._queue.has_due(self._step.step + 1 + self._num_early)

    def take(self) -> None:
        """Tells all ranks about the directives that are due. Every rank must call this method."""
        due = self._queue.take(self._step.step + 1 + self._num_early)
        self._pending += map(Directive.from_json, self._ranks.share([one.to_json() for one in due]))

    def before_step(self) -> None:
        """Applies the directives that are due in the next step. Every rank must call this method."""
        self._apply(restores=True)

    def within_step(self) -> None:
        """Applies the directives that are due in this step, of which the gradients are computed but not used yet.

        Every rank must call this method. A checkpoint is restored in the next step.
        """
        self._apply(restores=False)

    @property
    def saves(self) -> bool:
        """Whether a checkpoint must be saved after this step. The same on all ranks."""
        return bool(self._after_step)

    @property
    def stops(self) -> bool:
        """Whether the training must end after this step. The same on all ranks."""
        return any(directive.action == "stop" for directive, _ in self._after_step)

    def after_step(self, saved: Event | None) -> None:
        """Answers the directives that were due after the step.

        Args:
            saved: What became of the checkpoint, on rank 0; None if it could not be saved.
        """
        for directive, values in self._after_step:
            error = None
            if directive.action == "checkpoint" and not isinstance(saved, CheckpointEvent):
                message = "the checkpoint could not be saved; see the warnings of the run"
                error = FailedPrecondition("CHECKPOINT_FAILED", message)
            self._answer(directive, self._step.step, values, values, error)
        self._after_step = []

    def news(self) -> list[Event]:
        """Returns the answers since the last call; none on ranks other than 0."""
        news, self._news = self._news, []
        return news

    def close(self) -> None:
        """Ends the processes of policies that are not in use. Idempotent."""
        self._queue.close()

    def _open(self, directive: Directive) -> Policy:
        return self._steering.open_policy(directive.value["name"], directive.value["params"])

    def _apply(self, *, restores: bool) -> None:
        number = self._step.step + 1
        while self._pending:
            directive = self._pending[0]
            if (directive.applied_step or directive.apply_at_step) > number:
                return
            if directive.action == "restore" and not restores:
                return
            del self._pending[0]
            old = self._steering.values
            error: MeshError | None = None
            try:
                if self._is_expired(directive):
                    message = f"it was not applied within {directive.expire_after_s:g} s"
                    raise DeadlineExceeded("EXPIRED", message, field="directive.expire_after_s")
                if directive.action in _AFTER_STEP:
                    self._after_step.append((directive, old))
                    continue
                self._do(directive)
            except MeshError as raised:
                error = raised
                self._queue.drop(directive)
            self._answer(directive, number, old, self._steering.values, error)

    def _do(self, directive: Directive) -> None:
        """Applies a directive. Raises the same error on all ranks if it cannot be applied."""
        match directive.action:
            case "set_learning_rate":
                self._steering.set_rate(directive.value)
            case "set_momentum":
                self._steering.set_momentum(directive.value)
            case "set_policy":
                self._set_policy(directive)
            case "restore":
                self._restore(directive)

    def _set_policy(self, directive: Directive) -> None:
        name, params = directive.value["name"], directive.value["params"]
        policy: Policy | None = None
        failure = None
        if self._ranks.rank == 0:
            try:
                policy = self._queue.policy(directive)
            except MeshError as error:
                failure = {**to_json(error), "field": f"directive.set_{error.field}" if error.field else ""}
        raise_shared(self._ranks.share(failure))
        self._steering.set_policy((name, params), policy or self._steering.open_policy(name, params))

    def _restore(self, directive: Directive) -> None:
        def find() -> Path:
            if self._fetch is None:
                raise FailedPrecondition("CHECKPOINT_FAILED", "this training keeps no checkpoints")
            try:
                return self._fetch(directive.value)
            except (MeshError, OSError) as error:
                if directive.applied_step:  # the store may answer later, and then the weights are the same again
                    raise
                raise FailedPrecondition("CHECKPOINT_FAILED", f"the checkpoint cannot be read: {error}") from error

        restore(self._step, self._ranks, find)

    def _is_expired(self, directive: Directive) -> bool:
        """Whether a directive has expired, by the clock of rank 0. One that was applied before never expires."""
        if not directive.expire_us or directive.applied_step:
            return False
        return bool(self._ranks.share(time.time_ns() // 1000 > directive.expire_us))

    def _answer(self, directive: Directive, step: int, old: Values, new: Values, error: MeshError | None) -> None:
        if self._ranks.rank:
            return
        if directive.applied_step:  # it has been answered before
            if error:
                message = f"the directive {directive.id!r} could not be repeated in step {step}: {error.message}"
                self._news.append(WarningEvent(f"{message}. The weights may differ from those of an undisturbed run"))
            return
        event = DirectiveEvent(directive.id, directive.action, step, False, time.time_ns() // 1000, old, new)
        if error:
            event = replace(event, applied_step=0, old=None, new=None, error=to_json(error))
        elif directive.apply_at_step:
            event = replace(event, late=step > directive.apply_at_step)
        self._news.append(event)
