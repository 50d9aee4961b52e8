"""The ServerApp: relays tasks from the coordinator to Flower, and the nodes' replies back.

It makes no decisions and stores no state: if it ends, the coordinator starts another Flower run and sends the open
tasks again. A SuperLink never delivers a message twice, so a task is sent again if its node was restarted after the
task was sent (`last_activated_at` has changed) or was offline (Flower then answers with an error). Each reply is pulled
with calls of its own (`reply_pull`): if Flower cannot read it, or its upload does not end, only its own task fails. The
relay imports no large package.
"""

import contextlib
import queue
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from pathlib import Path
from socket import gethostname
from typing import cast

import grpc
import httpx
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MessageType, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.superlink.grid.http_grid import HttpGrid

from common.errors import FailedPrecondition
from common.unix_sockets import short_name
from deepseek.federated.flower.client_app import MODEL, TASK, opaque
from deepseek.federated.flower.fab import ELSEWHERE, POLL_KEY, SOCKET_KEY
from deepseek.federated.flower.greetings import Greetings
from deepseek.federated.flower.reply_content import failure, result_of
from deepseek.federated.flower.reply_pull import ReplyLostError, ReplyPull, ReplyTooLargeError
from protos.federated.v1 import relay_pb2, relay_pb2_grpc

_LOOK_S = 1.0
"""How often the relay asks which nodes are online, in seconds."""
_MAX_SENDS = 10
_NUM_PULLS = 8  # at once
_MAX_RECORD_BYTES = 1 << 20  # of a reply, besides its arrays
_MAX_PULLS_PER_S = 50  # otherwise polls for many nodes would keep the SuperLink busy
_KINDS = {"fit": MessageType.TRAIN, "evaluate": MessageType.EVALUATE}
# Codes of the errors with which Flower reports that a message or its reply was lost (flwr.common.constant.ErrorCode).
_LOST = frozenset({3, 4, 5})
_GRPC_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Relays until the coordinator ends the stream."""
    socket, poll_s = Path(str(context.run_config[SOCKET_KEY])), float(context.run_config[POLL_KEY])
    relay(socket, cast(HttpGrid, grid), context.run_id, poll_s)


def relay(socket: Path, grid: HttpGrid, run_id: int, poll_s: float) -> None:
    """Connects to the coordinator, and relays until it ends the stream.

    Args:
        socket: Socket of the coordinator.
        grid: Flower's access to the nodes.
        run_id: Flower's id of the run.
        poll_s: How often the relay asks for replies, in seconds.

    Raises:
        FailedPrecondition: RELAY_ELSEWHERE. The coordinator of the run is not on this machine.
    """
    if not socket.is_socket():
        raise _elsewhere(f"{gethostname()} has no socket {socket}")
    with short_name(socket) as name, grpc.insecure_channel(f"unix:{name}", options=_GRPC_OPTIONS) as channel:
        Relay(grid, run_id, channel, poll_s).run()


@dataclass
class _Open:
    """A task that has not been answered."""

    task: relay_pb2.Task
    deadline: float
    replies: dict[str, ReplyPull] = field(default_factory=dict)  # by the id of the message
    activated_at: str = ""
    due: bool = True
    sends: int = 0
    pull_at: float = 0.0


class Relay:
    """The relay of one run.

    Args:
        grid: Flower's access to the nodes.
        run_id: Flower's id of the run.
        channel: Connection to the coordinator.
        poll_s: How often the relay asks for replies, in seconds.
    """

    def __init__(self, grid: HttpGrid, run_id: int, channel: grpc.Channel, poll_s: float) -> None:
        self._grid = grid
        self._run_id = run_id
        self._stub = relay_pb2_grpc.RelayServiceStub(channel)
        self._poll_s = poll_s
        self._up: queue.Queue[relay_pb2.ExchangeRequest | None] = queue.Queue(maxsize=1)
        self._down: queue.SimpleQueue[relay_pb2.ExchangeResponse | None] = queue.SimpleQueue()
        self._models: dict[int, bytes] = {}
        self._ended = threading.Event()
        self._open: dict[str, _Open] = {}
        self._greetings = Greetings(grid, run_id)
        self._pool = ThreadPoolExecutor(_NUM_PULLS, "pull")
        self._pulls: dict[str, Future[Message | None]] = {}
        self._activated: dict[int, str] = {}
        self._pull_greeted_at = 0.0
        self._looked = 0.0
        self._refused = False

    def run(self) -> None:
        """Relays until the coordinator ends the stream.

        Raises:
            FailedPrecondition: RELAY_ELSEWHERE if the coordinator does not know the run.
        """
        self._up.put(relay_pb2.ExchangeRequest(hello=relay_pb2.Hello(flower_run_id=self._run_id)))
        threading.Thread(target=self._read, name="relay", daemon=True).start()
        while self._take():
            now = time.monotonic()
            if self._open and now - self._looked >= _LOOK_S:
                self._look(now)
            self._push()
            self._pull()
        self._pool.shutdown(wait=False, cancel_futures=True)
        with contextlib.suppress(queue.Full):  # nobody waits for it then
            self._up.put_nowait(None)
        if self._refused:
            raise _elsewhere(f"the coordinator on {gethostname()} has not started run {self._run_id}")

    def _read(self) -> None:
        """Puts the coordinator's messages in a queue, and None at the end. It runs in a separate thread."""
        try:
            for message in self._stub.Exchange(self._requests()):
                self._down.put(message)
        except grpc.RpcError as error:
            print(f"the connection to the coordinator ended: {error}", flush=True)
            self._refused = error.code() is grpc.StatusCode.NOT_FOUND
        self._ended.set()
        self._down.put(None)

    def _requests(self) -> Iterator[relay_pb2.ExchangeRequest]:
        while (message := self._up.get()) is not None:
            yield message

    def _take(self) -> bool:
        """Handles the coordinator's messages; waits if there is nothing else to do. Returns False at the end."""
        timeout_s = self._poll_s if self._open else None
        try:
            message = self._down.get(timeout=timeout_s)
            while message is not None:
                self._handle(message)
                message = self._down.get_nowait()
        except queue.Empty:
            return True
        return False

    def _handle(self, message: relay_pb2.ExchangeResponse) -> None:
        match message.WhichOneof("message"):
            case "model":
                used = {one.task.model_id for one in self._open.values()}
                self._models = {number: arrays for number, arrays in self._models.items() if number in used}
                self._models[message.model.model_id] = message.model.arrays
            case "task":
                task = message.task
                self._open[task.task_id] = _Open(task, time.monotonic() + task.ttl_s)
                self._looked = 0.0
            case "cancel":
                for task_id in message.cancel.task_ids:
                    if (one := self._open.pop(task_id, None)) is not None:
                        self._greetings.doubt(one.task.node_id)

    def _look(self, now: float) -> None:
        """Checks which nodes are online. Tasks of nodes that were restarted become due again."""
        self._looked = now
        before = self._activated
        self._activated = {node.node_id: node.last_activated_at for node in self._grid.get_nodes()}
        for node_id, activated_at in self._activated.items():
            if before.get(node_id, activated_at) != activated_at:
                self._greetings.restarted(node_id)
        for one in list(self._open.values()):
            if one.replies and self._activated.get(one.task.node_id, one.activated_at) != one.activated_at:
                one.due = True
            if now > one.deadline:
                self._greetings.doubt(one.task.node_id)
                self._fail(one, "EXPIRED", "the node did not answer in time")

    def _push(self) -> None:
        """Sends the tasks of nodes that are online, in one call, so that equal models are transferred once."""
        due = [one for one in self._open.values() if one.due and one.task.node_id in self._activated]
        self._greetings.send({one.task.node_id for one in due}, time.monotonic())
        ready = [one for one in due if self._greetings.is_ready(one.task.node_id)]
        for one in [one for one in ready if one.sends >= _MAX_SENDS]:
            self._fail(one, "NODE_UNSTABLE", f"the task was sent {_MAX_SENDS} times and lost each time")
            ready.remove(one)
        if not ready:
            return
        records = {number: opaque(self._models[number]) for number in {one.task.model_id for one in ready}}
        messages = [self._message(one, records[one.task.model_id]) for one in ready]
        for one, message_id in zip(ready, self._grid.push_messages(messages), strict=False):
            if message_id:
                limit = one.task.max_reply_bytes + _MAX_RECORD_BYTES
                one.replies[message_id] = ReplyPull(self._grid, self._run_id, message_id, limit)
                one.due = False
            one.activated_at = self._activated[one.task.node_id]
            one.sends += 1

    def _message(self, one: _Open, model: ArrayRecord) -> Message:
        task = one.task
        config = ConfigRecord(
            {
                "json": task.config.decode(),
                "kind": task.kind,
                "max_reply_bytes": task.max_reply_bytes,
                # The id of a message is a digest of it, and anyone who knows the id can reply to the message.
                "nonce": secrets.token_hex(16),
            }
        )
        return Message(
            RecordDict({TASK: config, MODEL: model}),
            dst_node_id=task.node_id,
            message_type=_KINDS[task.kind],
            ttl=max(one.deadline - time.monotonic(), 1.0),
            group_id=task.task_id,
        )

    def _pull(self) -> None:
        """Asks for replies, and handles those that have arrived."""
        now = time.monotonic()
        for one in self._open.values():
            if one.pull_at <= now:
                one.pull_at = now + max(self._poll_s, len(self._open) / _MAX_PULLS_PER_S)
                self._start_pulls(one.replies)
        greeted = self._greetings.owed()
        if self._pull_greeted_at <= now:
            self._pull_greeted_at = now + max(self._poll_s, len(greeted) / _MAX_PULLS_PER_S)
            self._start_pulls(greeted)
        wait(self._pulls.values(), timeout=self._poll_s)
        for message_id in [message_id for message_id, pull in self._pulls.items() if pull.done()]:
            pull = self._pulls.pop(message_id)
            if message_id in greeted:
                self._take_greeting(message_id, pull)
                continue
            asked = next((one for one in self._open.values() if message_id in one.replies), None)
            if asked is not None:  # else the task was answered or cancelled in the meantime
                self._take_reply(asked, message_id, pull)

    def _start_pulls(self, replies: Mapping[str, ReplyPull]) -> None:
        for message_id in replies.keys() - self._pulls.keys():
            self._pulls[message_id] = self._pool.submit(replies[message_id].pull)

    def _take_greeting(self, message_id: str, pull: "Future[Message | None]") -> None:
        """Handles the reply to a greeting, if it has arrived. An error is a reply, too."""
        try:
            if pull.result() is None:
                return
        except httpx.HTTPStatusError as problem:
            print(f"the SuperLink refused to return a reply: {problem}", flush=True)  # it is asked again
            return
        except httpx.TransportError:
            raise
        except Exception as problem:  # noqa: BLE001 - Flower builds objects from what the node sent
            print(f"Flower cannot read the reply to a greeting: {type(problem).__name__}: {problem}", flush=True)
        self._greetings.answered(message_id)

    def _take_reply(self, one: _Open, message_id: str, pull: "Future[Message | None]") -> None:
        """Handles the reply to a message, if it has arrived."""
        try:
            reply = pull.result()
            if reply is None:
                return
            # What a reply says about itself comes from its node; only the id by which it was pulled is certain.
            if reply.metadata.reply_to_message_id != message_id:
                self._fail(one, "BAD_REPLY", "the reply names another message that it replies to")
                return
            error = reply.error if reply.has_error() else None
            result = None if error else result_of(reply.content, one.task.max_reply_bytes)
        except ReplyLostError as problem:
            print(f"the upload of a reply did not end in time: {problem}", flush=True)
            error, result = None, None
        except ReplyTooLargeError as problem:
            self._fail(one, "OVERSIZED", f"{problem}; the limit of the arrays is {one.task.max_reply_bytes}")
            return
        except httpx.HTTPStatusError as problem:
            print(f"the SuperLink refused to return a reply: {problem}", flush=True)  # it is asked again
            return
        except httpx.TransportError:
            raise
        except Exception as problem:  # noqa: BLE001 - Flower builds objects from what the node sent
            self._fail(one, "BAD_REPLY", f"Flower cannot read the reply: {type(problem).__name__}: {problem}")
            return
        if isinstance(result, relay_pb2.Update):
            self._answer(one, update=result)
        elif result is not None:
            self._answer(one, failure=result)
        elif error is not None and error.code not in _LOST:
            self._fail(one, "CLIENT_APP_FAILED", f"Flower error {error.code}: {error.reason}")
        else:
            del one.replies[message_id]
            if not one.replies:
                one.due = True
                self._activated.pop(one.task.node_id, None)  # sent again once the node is online

    def _fail(self, one: _Open, reason: str, message: str) -> None:
        self._answer(one, failure=failure(reason, message))

    def _answer(
        self, one: _Open, *, update: relay_pb2.Update | None = None, failure: relay_pb2.Failure | None = None
    ) -> None:
        task = one.task
        reply = relay_pb2.Reply(task_id=task.task_id, node_id=task.node_id, update=update, failure=failure)
        self._open.pop(one.task.task_id, None)
        while not self._ended.is_set():
            with contextlib.suppress(queue.Full):  # the coordinator does not receive replies at the moment
                self._up.put(relay_pb2.ExchangeRequest(reply=reply), timeout=self._poll_s)
                return


def _elsewhere(why: str) -> FailedPrecondition:
    message = f"ServerApps must run on the machine of the coordinator that starts them: {why}"
    return FailedPrecondition(ELSEWHERE, message)
