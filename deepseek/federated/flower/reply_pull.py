"""Pulls the reply to one message from the SuperLink, as far as it has been uploaded.

Flower's `Grid.pull_messages` waits until the upload of a reply is complete, which a node can delay for 180 s after each
object that it sends, beyond the deadline of the round. A few such nodes would occupy all threads of the relay. Here,
each call asks once for the objects that are missing, and returns. This module uses Flower's internal Runtime API, for
the version that `control` pins.
"""

import threading

from flwr.app import Message
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    ObjectUnavailableError,
    inflate_object_from_contents,
    pull_objects,
)
from flwr.superlink.grid.http_grid import HttpGrid


class ReplyLostError(Exception):
    """The upload of a reply was not completed in time, so the SuperLink has deleted it."""


class ReplyTooLargeError(Exception):
    """The objects of a reply have more bytes than allowed."""


class ReplyPull:
    """The reply to one message. Not thread-safe.

    Args:
        grid: Flower's access to the SuperLink.
        run_id: Flower's id of the run.
        message_id: Id of the message.
        max_bytes: Size that all objects of the reply may have together, in bytes.
    """

    def __init__(self, grid: HttpGrid, run_id: int, message_id: str, max_bytes: int) -> None:
        self._grid = grid
        self._message_id = message_id
        self._run_id = run_id
        self._max_bytes = max_bytes
        self._reply_id = ""
        self._object_ids: list[str] = []
        self._contents: dict[str, bytes] = {}
        self._lock = threading.Lock()  # threads of Flower may still store objects after `pull_objects` has returned

    def pull(self) -> Message | None:
        """Returns the reply; None if the node has not replied, or its upload has not ended.

        Raises:
            ReplyLostError: The reply was deleted.
            ReplyTooLargeError: The reply is too large; it was not read to its end.
            httpx.HTTPError: The SuperLink did not answer, or refused the call.
            Exception: Flower cannot build the reply from what the node sent.
        """
        if not self._reply_id and not self._find():
            return None
        if not self._complete():
            return None
        client = self._grid._runtime_client
        confirmed = ConfirmMessageReceivedRequest(
            node=self._grid.node, run_id=self._run_id, message_object_id=self._reply_id
        )
        client.ConfirmMessageReceived(confirmed)
        with self._lock:
            contents, self._contents = self._contents, {}  # Flower frees them one by one
        reply = inflate_object_from_contents(self._reply_id, contents)
        if not isinstance(reply, Message):
            raise TypeError(f"the reply is an object of the type {type(reply).__name__}")
        return reply

    def _find(self) -> bool:
        """Asks for the ids of the reply's objects. The SuperLink returns them only once."""
        response = self._grid._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=[self._message_id]))
        for found, tree in zip(response.messages_list, response.message_object_trees, strict=True):
            if found.metadata.reply_to_message_id == self._message_id:
                self._reply_id = found.metadata.message_id
                self._object_ids = [one.object_id for one in iterate_object_tree(tree)]
                return True
        return False

    def _complete(self) -> bool:
        """Asks for the objects that are missing, and returns whether all have arrived."""
        with self._lock:
            missing = [one for one in self._object_ids if one not in self._contents]
        ask = make_pull_object_fn_protobuf(self._grid._runtime_client.PullObject, self._grid.node, self._run_id)
        waiting = threading.Event()

        def pull_one(object_id: str) -> bytes:
            try:
                content = ask(object_id)
            except ObjectUnavailableError:
                waiting.set()
                raise
            with self._lock:
                self._contents[object_id] = content
                num_bytes = sum(map(len, self._contents.values()))
            if num_bytes > self._max_bytes:
                raise ReplyTooLargeError(f"the reply has more than {self._max_bytes} bytes")
            return content

        try:
            pull_objects(missing, pull_one, max_tries_per_object=1)
        except ObjectPullError as error:
            if waiting.is_set():
                return False
            raise ReplyLostError(str(error)) from error
        return True
