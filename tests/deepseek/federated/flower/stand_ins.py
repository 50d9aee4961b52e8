"""A real connection to the coordinator for the relay, and stand-ins for Flower's SuperLink and SuperNodes."""

import math
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.proto import message_pb2, runtime_pb2
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.superlink.grid.http_grid import HttpGrid

from deepseek.federated.flower.client_app import GREETING, METRICS, TASK, UPDATE, WORK, opaque
from deepseek.federated.flower.relay import RelayLink

TIMEOUT_S = 20.0
LIMIT = 100


@dataclass
class Upload:
    """A reply at the SuperLink. The content of an object that has not arrived is empty."""

    tree: message_pb2.ObjectTree
    contents: dict[str, bytes]


Answer = Callable[[Message], Upload | None]


def update(arrays: bytes = b"u", **metrics: float) -> RecordDict:
    work: dict[str, int | float] = {"num-examples": 3, "train_s": 1.0, "load_s": 0.0}
    records: dict[str, ArrayRecord | MetricRecord] = {
        UPDATE: opaque(arrays),
        METRICS: MetricRecord({**metrics}),
        WORK: MetricRecord({**work}),
    }
    return RecordDict({**records})


def uploaded(content: RecordDict, asked: Message, replies_to: str = "") -> Upload:
    """Returns the upload of a reply, which names the message `asked` or another one."""
    reply = Message(content, reply_to=asked)
    reply.metadata.__dict__["_reply_to_message_id"] = replies_to or asked.metadata.message_id
    objects = get_all_nested_objects(reply)
    return Upload(get_object_tree(reply), {object_id: one.deflate() for object_id, one in objects.items()})


def honest(asked: Message) -> Upload:
    # Equal objects of several nodes would be one object at the SuperLink.
    return uploaded(update(b"update of %d" % asked.metadata.dst_node_id), asked)


class SuperNode:
    """Sends replies as Flower's SuperNode does: after each message, it waits until there is some reply.

    Args:
        num_owed: Number of replies to messages of earlier runs that it has not sent.
        is_silent: Whether its apps never reply.
    """

    def __init__(self, num_owed: int = 0, *, is_silent: bool = False) -> None:
        self.inbox: list[Message] = []
        self._ready_at: dict[str, float] = {f"of an earlier run {number}": 0.0 for number in range(num_owed)}
        self._sent: set[str] = set()
        self._is_silent = is_silent
        self._is_waiting = False
        self._lock = threading.Lock()

    def __call__(self, asked: Message) -> Upload | None:
        with self._lock:
            if not self._is_waiting and self.inbox:
                self._receive(self.inbox.pop(0))
            if self._is_waiting and (ready := [name for name, at in self._ready_at.items() if at <= time.time()]):
                self._sent.update(ready)
                self._ready_at = {name: at for name, at in self._ready_at.items() if name not in ready}
                self._is_waiting = False
            is_greeting = asked.metadata.message_type == MessageType.QUERY
            if asked.metadata.message_id in self._sent:
                return uploaded(RecordDict(), asked) if is_greeting else honest(asked)
            return None

    def _receive(self, message: Message) -> None:
        align_s = float(message.content.config_records[TASK].get(GREETING, 0.0))
        now = time.time()
        ready_at = now + (-now % align_s) if align_s else now + 0.02
        self._ready_at[message.metadata.message_id] = math.inf if self._is_silent else ready_at
        self._is_waiting = True


class SuperLink:
    """The Runtime API, as far as replies are pulled through it."""

    def __init__(self, answers: dict[int, Answer]) -> None:
        self._answers = answers
        self._contents: dict[str, dict[str, bytes]] = {}
        self.sent: dict[str, Message] = {}
        self.greeted: dict[str, Message] = {}
        self._greetings: set[str] = set()
        self.confirmed: list[str] = []

    def PullMessages(self, request: runtime_pb2.PullAppMessagesRequest) -> runtime_pb2.PullAppMessagesResponse:
        (asked,) = request.message_ids
        message = self.sent.get(asked) or self.greeted[asked]
        answer = self._answers[message.metadata.dst_node_id]
        if asked in self.greeted and not isinstance(answer, SuperNode):
            upload: Upload | None = uploaded(RecordDict(), message)
        else:
            upload = answer(message)
        if upload is None:
            return runtime_pb2.PullAppMessagesResponse()
        root = upload.tree.object_id
        self._contents[root] = upload.contents
        if asked in self.greeted:
            self._greetings.add(root)
        metadata = message_pb2.Metadata(message_id=root, reply_to_message_id=asked)
        found = message_pb2.Message(metadata=metadata)
        return runtime_pb2.PullAppMessagesResponse(messages_list=[found], message_object_trees=[upload.tree])

    def PullObject(self, request: message_pb2.PullObjectRequest) -> message_pb2.PullObjectResponse:
        for contents in self._contents.values():
            if (content := contents.get(request.object_id)) is not None:
                return message_pb2.PullObjectResponse(
                    object_found=True, object_available=content != b"", object_content=content
                )
        return message_pb2.PullObjectResponse(object_found=False)

    def ConfirmMessageReceived(
        self, request: message_pb2.ConfirmMessageReceivedRequest
    ) -> message_pb2.ConfirmMessageReceivedResponse:
        if request.message_object_id not in self._greetings:
            self.confirmed.append(request.message_object_id)
        return message_pb2.ConfirmMessageReceivedResponse()


class Nodes(HttpGrid):
    """Flower's grid, with nodes whose replies are functions of the message."""

    def __init__(self, answers: dict[int, Answer]) -> None:
        super().__init__(token="token")
        self._answers = answers
        self.superlink = SuperLink(answers)
        self.activated_at = "now"

    @property
    def _runtime_client(self) -> Any:
        return self.superlink

    def get_nodes(self) -> Iterable[NodeInfo]:
        return [NodeInfo(node_id=node_id, last_activated_at=self.activated_at) for node_id in self._answers]

    def push_messages(self, messages: Iterable[Message]) -> Iterable[str]:
        for message in messages:
            message_id = message.object_id
            message.metadata.__dict__["_message_id"] = message_id
            is_greeting = message.metadata.message_type == MessageType.QUERY
            (self.superlink.greeted if is_greeting else self.superlink.sent)[message_id] = message
            answer = self._answers[message.metadata.dst_node_id]
            if isinstance(answer, SuperNode):
                answer.inbox.append(message)
            yield message_id


def replies(link: RelayLink, num: int) -> dict[int, str]:
    """Returns the reasons of replies, by node."""
    found = {}
    for _ in range(num):
        reply = link.receive(TIMEOUT_S)
        assert reply is not None, "no reply in time"
        found[reply.node_id] = reply.reason
    return found
