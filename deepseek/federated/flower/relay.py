"""The coordinator's end of the connection to the ServerApps that relay tasks (`relay_app`).

One gRPC server on a Unix socket serves all runs. A link breaks as soon as the relay's stream ends, because gRPC detects
a closed socket at once. A model is sent once per stream, regardless of the number of tasks that refer to it.
"""

import contextlib
import fcntl
import itertools
import json
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc

from common.errors import FailedPrecondition, InvalidArgument, Unavailable
from common.files import disk_error
from common.unix_sockets import short_name
from deepseek.federated.flower.engine import Link, LinkBroken, Task, TaskReply
from protos.federated.v1 import relay_pb2, relay_pb2_grpc

MAX_MODEL_BYTES = 2_000_000_000
"""Largest arrays of a task, in bytes: a protobuf message is smaller than 2 GiB."""

GRPC_OPTIONS = (("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1))

_MAX_RUNS = 64
_MAX_WAITING_BYTES = (
    256 << 20
)  # size of replies that the run has not yet received; further replies stay at the SuperLink


class RelayLink(Link):
    """The link of one Flower run.

    Args:
        flower_run_id: Flower's id of the run.
        max_reply_bytes: Largest arrays of a reply, in bytes.
        on_close: Called once when the link is closed or has broken.
    """

    def __init__(self, flower_run_id: int, max_reply_bytes: int, on_close: Callable[["RelayLink"], None]) -> None:
        self._run_id = flower_run_id
        self._max_reply_bytes = min(max_reply_bytes, MAX_MODEL_BYTES)
        self._on_close = on_close
        self._down: queue.SimpleQueue[relay_pb2.ExchangeResponse | None] = queue.SimpleQueue()
        self._changed = threading.Condition()
        self._replies: deque[TaskReply] = deque()
        self._waiting_bytes = 0
        self._connected = False
        self._closed = False
        self._broken = ""
        self._model: bytes | None = None
        self._model_id = 0

    @property
    def flower_run_id(self) -> int:
        """Flower's id of the run."""
        return self._run_id

    def send(self, task: Task) -> None:
        """Sends a task, see `Link.send`."""
        if len(task.arrays) > MAX_MODEL_BYTES:
            message = f"the model has {len(task.arrays)} bytes; at most {MAX_MODEL_BYTES} can be sent to nodes"
            raise InvalidArgument("MODEL_TOO_LARGE", message, field="arrays")
        with self._changed:
            self._check()
            # Comparing is cheap: usually the objects are the same, because one model is sent to all nodes.
            if self._model is not task.arrays and self._model != task.arrays:
                self._model = task.arrays
                self._model_id += 1
                model = relay_pb2.Model(model_id=self._model_id, arrays=task.arrays)
                self._down.put(relay_pb2.ExchangeResponse(model=model))
            sent = relay_pb2.Task(
                task_id=task.task_id,
                node_id=task.node_id,
                kind=task.kind,
                config=json.dumps(dict(task.config)).encode(),
                model_id=self._model_id,
                ttl_s=task.ttl_s,
                max_reply_bytes=self._max_reply_bytes,
            )
            self._down.put(relay_pb2.ExchangeResponse(task=sent))

    def receive(self, timeout_s: float | None = None) -> TaskReply | None:
        """Waits for the next reply, see `Link.receive`."""
        with self._changed:
            self._changed.wait_for(lambda: self._replies or self._closed or self._broken, timeout_s)
            if self._replies:
                reply = self._replies.popleft()
                self._waiting_bytes -= len(reply.arrays)
                self._changed.notify_all()
                return reply
            if not self._closed:
                self._check()
            return None

    def cancel(self, task_ids: Sequence[str]) -> None:
        """Stops waiting for replies, see `Link.cancel`."""
        with self._changed:
            if not (self._closed or self._broken):
                self._down.put(relay_pb2.ExchangeResponse(cancel=relay_pb2.Cancel(task_ids=task_ids)))

    def close(self) -> None:
        """Ends the run, see `Link.close`."""
        with self._changed:
            if self._closed:
                return
            self._closed = True
            self._down.put(None)
            self._changed.notify_all()
        self._on_close(self)

    def wait_until_connected(self, timeout_s: float) -> bool:
        """Waits until the relay has connected; returns whether it has.

        Raises:
            LinkBroken: LINK_BROKEN.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._connected or self._broken or self._closed, timeout_s)
            self._check()
            return self._connected

    def break_off(self, why: str) -> None:
        """Makes all further calls raise LinkBroken. Does nothing if the link is closed or has broken already."""
        with self._changed:
            if self._closed or self._broken:
                return
            self._broken = why
            self._down.put(None)
            self._changed.notify_all()
        self._on_close(self)

    def attach(self) -> bool:
        """Marks the relay as connected; returns False if it was connected before or the link has ended."""
        with self._changed:
            if self._connected or self._closed or self._broken:
                return False
            self._connected = True
            self._changed.notify_all()
            return True

    def downstream(self) -> Iterator[relay_pb2.ExchangeResponse]:
        """Yields the messages for the relay until the link ends."""
        while (message := self._down.get()) is not None:
            yield message

    def accept(self, reply: relay_pb2.Reply) -> None:
        """Receives a reply from the relay. Waits while too many bytes of earlier replies have not been consumed."""
        failure, update = reply.failure, reply.update
        if reply.WhichOneof("result") == "update":
            taken = TaskReply(
                reply.task_id,
                reply.node_id,
                update.arrays,
                update.num_examples,
                dict(update.metrics),
                update.train_s,
                update.load_s,
            )
        else:
            taken = TaskReply(reply.task_id, reply.node_id, reason=failure.reason, error=failure.message)
        size = len(taken.arrays)
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    not self._waiting_bytes
                    or self._waiting_bytes + size <= _MAX_WAITING_BYTES
                    or self._closed
                    or self._broken
                )
            )
            self._replies.append(taken)
            self._waiting_bytes += size
            self._changed.notify_all()

    def _check(self) -> None:
        if self._closed:
            raise FailedPrecondition("LINK_CLOSED", f"the link of Flower run {self._run_id} is closed")
        if self._broken:
            raise LinkBroken("LINK_BROKEN", f"Flower run {self._run_id} has ended: {self._broken}", retry_delay_s=1)


class RelayServer(relay_pb2_grpc.RelayServiceServicer):
    """Serves the relays of all runs. Thread-safe.

    Args:
        folder: Folder for the socket; created if missing, and made private. Servers may share it.
    """

    def __init__(self, folder: Path) -> None:
        self._lock = threading.Lock()
        self._links: dict[int, RelayLink] = {}
        self._resources = contextlib.ExitStack()
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            folder.chmod(0o700)
            self._socket = self._resources.enter_context(_unused_name(folder.absolute()))
            # gRPC uses the name again when it removes the socket, so the name must remain valid until then.
            name = self._resources.enter_context(short_name(self._socket))
        except OSError as error:
            raise disk_error(error, folder) from error
        self._server = grpc.server(ThreadPoolExecutor(_MAX_RUNS, "relay"), options=GRPC_OPTIONS)
        relay_pb2_grpc.add_RelayServiceServicer_to_server(self, self._server)
        self._server.add_insecure_port(f"unix:{name}")  # replaces the socket of a server that was killed
        self._server.start()

    @property
    def socket(self) -> Path:
        """Path of the socket."""
        return self._socket

    def open_link(self, flower_run_id: int, max_reply_bytes: int, on_close: Callable[[RelayLink], None]) -> RelayLink:
        """Returns the link of a run, whose relay may connect from now on. See `RelayLink` for the arguments."""
        with self._lock:
            if len(self._links) >= _MAX_RUNS:
                raise Unavailable("TOO_MANY_RUNS", f"at most {_MAX_RUNS} runs can be open; close one of them")

            def closed(link: RelayLink) -> None:
                with self._lock:
                    self._links.pop(flower_run_id, None)
                on_close(link)

            link = RelayLink(flower_run_id, max_reply_bytes, closed)
            self._links[flower_run_id] = link
            return link

    def break_all(self, why: str) -> None:
        """Breaks all links, because the SuperLink has ended."""
        with self._lock:
            links = list(self._links.values())
        for link in links:
            link.break_off(why)

    def close(self) -> None:
        """Closes all links and the server. Idempotent."""
        with self._lock:
            links = list(self._links.values())
        for link in links:
            link.close()
        self._server.stop(grace=0).wait()
        self._resources.close()

    def Exchange(
        self, request_iterator: Iterator[relay_pb2.ExchangeRequest], context: grpc.ServicerContext
    ) -> Iterator[relay_pb2.ExchangeResponse]:
        """Connects the relay of a run."""
        first = next(request_iterator, relay_pb2.ExchangeRequest())
        with self._lock:
            link = self._links.get(first.hello.flower_run_id)
        if link is None or not link.attach():
            context.abort(grpc.StatusCode.NOT_FOUND, f"run {first.hello.flower_run_id} is not open [RUN_NOT_OPEN]")
        assert link is not None

        def read() -> None:
            try:
                for message in request_iterator:
                    if message.WhichOneof("message") == "reply":
                        link.accept(message.reply)
            except grpc.RpcError:
                pass
            link.break_off("its ServerApp ended")

        threading.Thread(target=read, name=f"relay-{link.flower_run_id}", daemon=True).start()
        yield from link.downstream()


@contextlib.contextmanager
def _unused_name(folder: Path) -> Iterator[Path]:
    """Yields the path of a socket that no other server uses. The path of a server that was killed is used again."""
    for number in itertools.count():
        with (folder / f"relay-{number}.lock").open("a") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            yield folder / f"relay-{number}.sock"
            return
