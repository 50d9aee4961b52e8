"""Greets nodes before they get tasks, because a SuperNode of Flower may be one reply behind.

After each message, a SuperNode waits until it can send some reply. If a run ends while a SuperNode receives a message
of it, the SuperNode does not wait, but the app that it has started replies nevertheless. From then on, it sends the
reply to each message only when it receives the next one, so its replies miss every deadline. A node that answers all
messages is in step. A node that does not answer a greeting gets two more, whose apps reply at the same moment: the
SuperNode then sends both replies at once, and is in step again.
"""

import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field

from flwr.app import ConfigRecord, Message, MessageType, RecordDict
from flwr.superlink.grid.http_grid import HttpGrid

from deepseek.federated.flower.client_app import GREETING, TASK
from deepseek.federated.flower.reply_pull import ReplyPull

GIVE_UP_S = 90.0
"""Seconds after which a node gets tasks although it has not answered its greetings, e.g. because it is still busy with
another run."""
_AGAIN_S = (15.0, 45.0)
"""Seconds after the first greeting at which a node gets two more."""
_ALIGN_S = 4.0
"""The apps of these two reply when the time is a multiple of this, so that both reply at the same moment."""
_MAX_REPLY_BYTES = 1 << 20
_TTL_S = 120.0


@dataclass
class _Greeted:
    """A node that has not answered all greetings.

    Attributes:
        first_at: Time of the first greeting.
        num_again: How often it got two more.
        replies: The replies that it owes, by id of the message.
    """

    first_at: float
    num_again: int = 0
    replies: dict[str, ReplyPull] = field(default_factory=dict)


class Greetings:
    """The greetings of one run. All times are those of one monotonic clock, in seconds.

    Args:
        grid: Flower's access to the nodes.
        run_id: Flower's id of the run.
    """

    def __init__(self, grid: HttpGrid, run_id: int) -> None:
        self._grid = grid
        self._run_id = run_id
        self._in_step: set[int] = set()
        self._greeted: dict[int, _Greeted] = {}

    def is_ready(self, node_id: int) -> bool:
        """Returns whether a node can get a task."""
        return node_id in self._in_step

    def restarted(self, node_id: int) -> None:
        """Notes that the SuperNode of a node has started anew: it is in step."""
        self._greeted.pop(node_id, None)
        self._in_step.add(node_id)

    def doubt(self, node_id: int) -> None:
        """Notes that a node has not answered a task in time: it is greeted before the next one."""
        self._in_step.discard(node_id)

    def send(self, node_ids: Iterable[int], now: float) -> None:
        """Greets nodes that are about to get a task, as far as this is necessary now."""
        messages = []
        for node_id in node_ids:
            if node_id in self._in_step:
                continue
            one = self._greeted.get(node_id)
            if one is None:
                self._greeted[node_id] = _Greeted(now)
                messages.append(_greeting(node_id, 0.0))
            elif now >= one.first_at + GIVE_UP_S:
                self.restarted(node_id)
            elif one.num_again < len(_AGAIN_S) and now >= one.first_at + _AGAIN_S[one.num_again]:
                one.num_again += 1
                messages += [_greeting(node_id, _ALIGN_S) for _ in range(2)]
        if messages:
            for message, message_id in zip(messages, self._grid.push_messages(messages), strict=False):
                if message_id:
                    reply = ReplyPull(self._grid, self._run_id, message_id, _MAX_REPLY_BYTES)
                    self._greeted[message.metadata.dst_node_id].replies[message_id] = reply

    def owed(self) -> dict[str, ReplyPull]:
        """Returns the replies that have not arrived, by id of the message."""
        return {message_id: reply for one in self._greeted.values() for message_id, reply in one.replies.items()}

    def answered(self, message_id: str) -> None:
        """Notes that the reply to a greeting has arrived. Its content does not matter."""
        for node_id, one in self._greeted.items():
            if one.replies.pop(message_id, None) and not one.replies:
                self.restarted(node_id)
                return


def _greeting(node_id: int, align_s: float) -> Message:
    # The id of a message is a digest of it, and anyone who knows the id can reply to the message.
    config = ConfigRecord({GREETING: align_s, "nonce": secrets.token_hex(16)})
    return Message(
        RecordDict({TASK: config}), dst_node_id=node_id, message_type=MessageType.QUERY, ttl=_TTL_S, group_id=GREETING
    )
