"""What the coordinator needs from a transport of federated tasks: nodes, runs, tasks and replies.

An `Engine` manages the nodes; a `Link` carries the tasks of one run to nodes and their replies back. If a process that
carries a link ends, the link ends, too; the caller then opens another link and sends the same tasks again. A task may
be answered more than once, and only the first reply counts. This module uses no type of Flower.
"""

import abc
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from common.errors import Unavailable


class LinkBroken(Unavailable):
    """A process that carries the tasks of a run has ended. Open another link and send the open tasks again."""


@dataclass(frozen=True)
class NodeStatus:
    """A registered node.

    Attributes:
        node_id: Flower's id of the node; stable while the node is registered.
        fingerprint: Fingerprint of the node's public key, see `node_keys`.
        online: Whether a process of the node is connected now. A node that was killed counts as online for about a
            minute.
    """

    node_id: int
    fingerprint: str
    online: bool


@dataclass(frozen=True)
class Task:
    """A unit of work for one node.

    Attributes:
        task_id: Id of the task; unique within a run, and the same if the task is sent again.
        node_id: Node that gets the task.
        kind: Kind of work, which is also the kind in the request to the node's worker.
        config: JSON object; further fields of the request to the node's worker (`worker_link`).
        arrays: Safetensors bytes of the model; may be empty.
        ttl_s: Time after which the reply is no longer needed, in seconds.
    """

    task_id: str
    node_id: int
    kind: Literal["fit", "evaluate"]
    config: Mapping[str, Any]
    arrays: bytes = field(repr=False)
    ttl_s: float


@dataclass(frozen=True)
class TaskReply:
    """The answer of a node to a task.

    Attributes:
        task_id: Id of the task.
        node_id: Node that the task was sent to. Only a holder of its key can answer: Flower and `node_proxy` compare
            the sender of a reply with its key, and the id of the message that it answers cannot be guessed.
        arrays: Safetensors bytes; empty if the task failed.
        num_examples: Number of examples, as stated by the node.
        metrics: Metrics by name, as stated by the node.
        train_s: Time that the node's worker spent on the task, in seconds.
        load_s: Time that the worker spent loading data and the model for the task, in seconds.
        reason: Machine-readable reason if the task failed, e.g. OVERSIZED or a reason of the node's worker; else empty.
        error: Message for people if the task failed; else empty.
    """

    task_id: str
    node_id: int
    arrays: bytes = field(repr=False, default=b"")
    num_examples: int = 0
    metrics: Mapping[str, float] = field(default_factory=dict)
    train_s: float = 0.0
    load_s: float = 0.0
    reason: str = ""
    error: str = ""


class Link(abc.ABC):
    """Carries the tasks of one run to nodes, and their replies back. Thread-safe.

    A task for a node that is offline waits until the node is online or the task expires. If a node was restarted while
    it worked on a task, it gets the task again.
    """

    @property
    @abc.abstractmethod
    def flower_run_id(self) -> int:
        """Flower's id of the run that carries the tasks."""

    @abc.abstractmethod
    def send(self, task: Task) -> None:
        """Sends a task. A task that is sent again while it is open replaces the earlier one.

        Raises:
            LinkBroken: LINK_BROKEN.
            FailedPrecondition: LINK_CLOSED.
            InvalidArgument: MODEL_TOO_LARGE.
        """

    @abc.abstractmethod
    def receive(self, timeout_s: float | None = None) -> TaskReply | None:
        """Waits for the next reply.

        Args:
            timeout_s: Longest time to wait in seconds; None means no limit.

        Returns:
            The reply; None if there was none in time or the link has been closed.

        Raises:
            LinkBroken: LINK_BROKEN. Replies that arrived before are returned first.
        """

    @abc.abstractmethod
    def cancel(self, task_ids: Sequence[str]) -> None:
        """Stops waiting for the replies to tasks. Nodes that have begun to work on them finish their work."""

    @abc.abstractmethod
    def close(self) -> None:
        """Ends the run. Idempotent."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()


class Engine(abc.ABC):
    """Registers nodes and opens runs. Thread-safe."""

    @abc.abstractmethod
    def register_node(self, public_key: bytes) -> int:
        """Registers a node, which may then connect.

        Args:
            public_key: ECDSA P-384 key in OpenSSH format, i.e. the content of `key.pub`.

        Returns:
            Flower's id of the node. If the key is registered already, the id of that node.

        Raises:
            InvalidArgument: BAD_NODE_KEY.
            Unavailable: SUPERLINK_UNAVAILABLE.
        """

    @abc.abstractmethod
    def unregister_node(self, node_id: int) -> None:
        """Removes a node. Its process ends when the SuperLink refuses its next call. Idempotent.

        Raises:
            Unavailable: SUPERLINK_UNAVAILABLE.
        """

    @abc.abstractmethod
    def nodes(self) -> Sequence[NodeStatus]:
        """Returns the registered nodes, in ascending order of their fingerprints.

        Raises:
            Unavailable: SUPERLINK_UNAVAILABLE.
        """

    @abc.abstractmethod
    def open_run(self, run_key: str, max_reply_bytes: int) -> Link:
        """Starts a Flower run and waits until it is ready to carry tasks. Earlier runs of the same key are stopped.

        Args:
            run_key: Id of the caller's run, at most 63 characters, for messages and logs.
            max_reply_bytes: Largest arrays of a reply, in bytes. Larger ones become the failure OVERSIZED.

        Raises:
            Unavailable: SUPERLINK_UNAVAILABLE or RELAY_NOT_STARTED, with a reason in the message; try again.
            FailedPrecondition: RELAY_ELSEWHERE. The ServerApps do not run on this machine.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Closes all links and ends the processes that this engine started. Idempotent."""
