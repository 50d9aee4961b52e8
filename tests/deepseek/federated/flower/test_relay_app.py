"""The relay, with a stand-in for the SuperLink that plays hostile nodes."""

from typing import Any

import pytest
from flwr.app import Message, MetricRecord
from flwr.proto import message_pb2
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree

from deepseek.federated.flower.client_app import METRICS, TASK, opaque
from deepseek.federated.flower.relay_app import _MAX_RECORD_BYTES, _NUM_PULLS
from tests.deepseek.federated.flower.stand_ins import (
    LIMIT,
    TIMEOUT_S,
    Answer,
    Upload,
    honest,
    replies,
    update,
    uploaded,
)
from tests.harness.processes import wait_until


@pytest.mark.parametrize("content", [b"Message  0\x00", b"Message  3\x00abc", b"Array  3\x00abc", b"Nothing  0\x00"])
def test_a_reply_that_flower_cannot_read_fails_only_its_own_task(connect: Any, content: bytes) -> None:
    def lies(asked: Message) -> Upload:
        return Upload(message_pb2.ObjectTree(object_id="id"), {"id": content})

    link, _ = connect({1: lies, 2: honest})
    assert replies(link, 2) == {1: "BAD_REPLY", 2: ""}


def test_a_reply_that_is_no_message_fails(connect: Any) -> None:
    def lies(asked: Message) -> Upload:
        array = next(iter(opaque(b"u").values()))
        chunks = get_all_nested_objects(array)
        return Upload(get_object_tree(array), {object_id: one.deflate() for object_id, one in chunks.items()})

    link, _ = connect({1: lies})
    assert replies(link, 1) == {1: "BAD_REPLY"}


def test_a_reply_that_claims_to_answer_another_task_is_not_taken(connect: Any) -> None:
    other: list[str] = []

    def forges(asked: Message) -> Upload | None:
        return uploaded(update(b"forged"), asked, other[0]) if other else None

    def late(asked: Message) -> Upload | None:
        if not other:
            other.append(asked.metadata.message_id)
            return None
        return honest(asked)

    link, _ = connect({1: forges, 2: late})
    received = [link.receive(TIMEOUT_S), link.receive(TIMEOUT_S)]
    assert sorted((one.node_id, one.reason, one.arrays) for one in received) == [
        (1, "BAD_REPLY", b""),
        (2, "", b"update of 2"),
    ]


def test_equal_tasks_are_messages_whose_ids_cannot_be_guessed(connect: Any) -> None:
    link, nodes = connect({1: honest, 2: honest})
    assert replies(link, 2) == {1: "", 2: ""}
    nonces = {str(message.content.config_records[TASK]["nonce"]) for message in nodes.superlink.sent.values()}
    assert len(nonces) == 2
    assert all(len(nonce) == 32 for nonce in nonces)


def test_uploads_that_do_not_end_delay_no_other_reply(connect: Any) -> None:
    stalled: list[tuple[Upload, dict[str, bytes]]] = []

    def stalls(asked: Message) -> Upload:
        upload = honest(asked)
        stalled.append((upload, dict(upload.contents)))
        upload.contents[upload.tree.children[0].object_id] = b""
        return upload

    num_stalled = 2 * _NUM_PULLS
    answers: dict[int, Answer] = dict.fromkeys(range(1, num_stalled + 1), stalls)
    link, nodes = connect({**answers, 100: honest})
    assert replies(link, 1) == {100: ""}
    wait_until(lambda: len(stalled) == num_stalled, "the start of the uploads")
    assert len(nodes.superlink.confirmed) == 1
    for upload, contents in stalled:
        upload.contents.update(contents)
    assert replies(link, num_stalled) == dict.fromkeys(answers, "")
    assert len(nodes.superlink.confirmed) == num_stalled + 1


def test_a_cancelled_task_is_not_pulled_again(connect: Any) -> None:
    asked_for: list[int] = []

    def never(asked: Message) -> None:
        asked_for.append(asked.metadata.dst_node_id)

    link, _ = connect({1: never, 2: never})
    wait_until(lambda: {1, 2} <= set(asked_for), "both tasks")
    link.cancel(["task of 1"])
    wait_until(lambda: asked_for[-3:] == [2, 2, 2], "calls for the other task only")


def test_a_task_whose_reply_is_deleted_before_it_is_complete_is_sent_again(connect: Any) -> None:
    def loses(asked: Message) -> Upload:
        upload = honest(asked)
        if len(nodes.superlink.sent) == 1:
            del upload.contents[upload.tree.children[0].object_id]
        return upload

    link, nodes = connect({1: loses})
    assert replies(link, 1) == {1: ""}
    assert len(nodes.superlink.sent) == 2


def test_a_reply_that_is_much_too_large_is_not_read_to_its_end(connect: Any) -> None:
    def huge(asked: Message) -> Upload:
        return uploaded(update(b"x" * (LIMIT + _MAX_RECORD_BYTES + 1)), asked)

    link, nodes = connect({1: huge, 2: honest})
    assert replies(link, 2) == {1: "OVERSIZED", 2: ""}
    assert len(nodes.superlink.confirmed) == 1


def test_a_reply_of_the_wrong_size_or_with_long_names_is_refused(connect: Any) -> None:
    def large(asked: Message) -> Upload:
        return uploaded(update(b"x" * (LIMIT + 1)), asked)

    def long_name(asked: Message) -> Upload:
        content = update()
        content.metric_records[METRICS] = MetricRecord({"m" * 201: 1.0})
        return uploaded(content, asked)

    link, _ = connect({1: large, 2: long_name, 3: honest})
    assert replies(link, 3) == {1: "OVERSIZED", 2: "BAD_REPLY", 3: ""}
