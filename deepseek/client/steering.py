"""Steers a run from a program: sends directives, and yields the answers and the events of the run.

with mesh.runs.steer("x7") as steering:
    ack = steering.apply(set_learning_rate=0.001)
    print(ack.applied_step, ack.old.learning_rate, ack.new.learning_rate)
"""

import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping
from queue import SimpleQueue
from types import MappingProxyType, TracebackType
from typing import Any, Self

from google.protobuf import json_format
from google.protobuf.struct_pb2 import Struct

from common.errors import ERROR_CLASSES, Internal, InvalidArgument, Unavailable
from deepseek.client.names import run_name
from deepseek.client.resume import PATIENCE_S, RETRY_INTERVAL_S, Patience
from deepseek.steering.policy import policy_name
from deepseek.trainjob.json_values import plain
from protos.trainer.v1 import trainer_pb2 as pb
from protos.trainer.v1 import trainer_pb2_grpc

_MAX_EVENTS = 10_000
"""Number of events that are kept for `events` while the caller waits for answers; older ones are dropped."""


class Steering:
    """The stream to one run, available through `Mesh.runs.steer`. Not thread-safe; use it as a context manager.

    If the trainer restarts, the stream is opened again, and the directives that are not answered are sent again. The
    run neither notices nor waits.

    Args:
        stub: Client of TrainerService.
        run: `runs/<id>`.
        after_sequence: Sequence number. Only events with a higher number are yielded; None for no events at all.
        patience_s: Time in seconds. If the trainer is unavailable, this class retries until it has waited this long.
    """

    def __init__(
        self,
        stub: trainer_pb2_grpc.TrainerServiceStub,
        run: str,
        *,
        after_sequence: int | None = None,
        patience_s: float = PATIENCE_S,
    ) -> None:
        self._stub = stub
        self._run = run
        self._answers_only = after_sequence is None
        self._after = after_sequence or 0
        self._patience = Patience(patience_s)
        self._unanswered: dict[str, pb.Directive] = {}
        self._acks: dict[str, pb.DirectiveAck] = {}
        self._events: deque[pb.RunEvent] = deque(maxlen=_MAX_EVENTS)
        self._requests: SimpleQueue[pb.SteerRunRequest | None] = SimpleQueue()
        self._call: Any = None
        self._has_ended = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def send(
        self,
        *,
        set_learning_rate: float | None = None,
        set_momentum: float | None = None,
        set_policy: str | None = None,
        params: Mapping[str, Any] = MappingProxyType({}),
        checkpoint: bool = False,
        restore: int | None = None,
        restore_run: str = "",
        stop: bool = False,
        at_step: int = 0,
        expire_after_s: float = 0.0,
        directive_id: str = "",
    ) -> str:
        """Sends a directive without waiting for its answer. With no action, it changes nothing (`no_op`).

        Args:
            set_learning_rate: New learning rate, which replaces schedule and policy.
            set_momentum: New momentum, which ends the policy.
            set_policy: Name of a policy to use from now on, e.g. `plateau` or `one-cycle`.
            params: Parameters of the policy.
            checkpoint: Whether to save a checkpoint.
            restore: Step of a checkpoint whose weights to restore.
            restore_run: Name of the run whose checkpoint it is; by default, the run itself.
            stop: Whether to end the run.
            at_step: Step in which the directive is applied, counted from 1; 0 for the next step.
            expire_after_s: Number of seconds after which it is no longer applied; 0 for never.
            directive_id: Id of the directive; by default a new one.

        Returns:
            The id of the directive.

        Raises:
            InvalidArgument: BAD_VALUE if more than one action is given.
        """
        actions: dict[str, Any] = {
            "set_learning_rate": set_learning_rate,
            "set_momentum": set_momentum,
            "set_policy": None if set_policy is None else _component(set_policy, params),
            "checkpoint": pb.SaveCheckpoint() if checkpoint else None,
            "restore": None if restore is None else _restore(restore, restore_run),
            "stop": pb.StopTraining() if stop else None,
        }
        chosen = {name: value for name, value in actions.items() if value is not None}
        if len(chosen) > 1:
            raise InvalidArgument(
                "BAD_VALUE", f"a directive has one action, not {', '.join(chosen)}", field="directive"
            )
        directive = pb.Directive(
            id=directive_id or uuid.uuid4().hex,
            apply_at_step=at_step,
            expire_after_s=expire_after_s,
            **(chosen or {"no_op": pb.NoOperation()}),
        )
        self._acks.pop(directive.id, None)
        self._unanswered[directive.id] = directive
        if self._call is None:
            self._open()
        else:
            self._requests.put(pb.SteerRunRequest(directive=directive))
        return str(directive.id)

    def wait(self, directive_id: str) -> pb.DirectiveAck:
        """Waits for the answer to a directive.

        Raises:
            MeshError: The directive was not applied, e.g. Expired or RUN_ENDED (see `TrainerService.SteerRun`); or the
                stream failed, e.g. RUN_NOT_FOUND.
        """
        self._patience.progressed()
        while directive_id not in self._acks:
            if not self._read():
                message = f"{self._run} has ended without an answer to {directive_id!r}; send it again"
                raise Unavailable("NO_ANSWER", message)
        ack = self._acks[directive_id]
        if ack.HasField("error"):
            kind = ERROR_CLASSES.get(ack.error.code, Internal)
            raise kind(ack.error.reason, ack.error.message, field=ack.error.field)
        return ack

    def apply(self, **directive: Any) -> pb.DirectiveAck:
        """Sends a directive and waits for its answer; the arguments are those of `send`, and the errors of `wait`."""
        return self.wait(self.send(**directive))

    def events(self) -> Iterator[pb.RunEvent]:
        """Yields the events of the run until it ends. Answers are among them, too.

        Raises:
            MeshError: The stream failed.
        """
        self._patience.progressed()
        while True:
            while self._events:
                yield self._events.popleft()
                self._patience.progressed()
            if not self._read():
                return

    def close(self) -> None:
        """Ends the stream. Directives that have been answered stay in effect; others may or may not be applied."""
        self._requests.put(None)
        if self._call is not None:
            self._call.cancel()
        self._call = None

    def _open(self) -> None:
        """Opens the stream; its first messages repeat the directives that are not answered."""
        self._requests.put(None)  # ends the requests of the stream before
        requests = self._requests = SimpleQueue()
        first = pb.SteerRunRequest(name=self._run, after_sequence=self._after, answers_only=self._answers_only)
        for directive in self._unanswered.values():
            first.directive.CopyFrom(directive)
            requests.put(first)
            first = pb.SteerRunRequest()
        if first.name:
            requests.put(first)
        self._call = self._stub.SteerRun(iter(requests.get, None))

    def _read(self) -> bool:
        """Reads one response; returns False if the run has ended."""
        while not self._has_ended:
            try:
                if self._call is None:
                    self._open()
                response = next(self._call, None)
            except Unavailable:
                if self._patience.is_over:
                    raise
                time.sleep(RETRY_INTERVAL_S)
                self._call = None
                continue
            if response is not None:
                self._patience.progressed()
                self._keep(response)
                return True
            # The run has ended. What it had not answered is answered now; it was sent too late, or lost.
            self._call = None
            self._has_ended = not self._unanswered or self._patience.is_over
        return False

    def _keep(self, response: pb.SteerRunResponse) -> None:
        if response.HasField("event"):
            self._after = max(self._after, response.event.sequence)
            if not self._answers_only:
                self._events.append(response.event)
        ack = response.ack if response.HasField("ack") else response.event.directive
        if self._unanswered.pop(ack.directive_id, None):
            self._acks[ack.directive_id] = ack


def _component(name: str, params: Mapping[str, Any]) -> pb.Component:
    values = Struct()
    json_format.ParseDict(plain(dict(params), "params"), values)
    return pb.Component(name=policy_name(name), params=values)


def _restore(step: int, run: str) -> pb.RestoreCheckpoint:
    return pb.RestoreCheckpoint(step=step, run=run_name(run, field="restore_run") if run else "")
