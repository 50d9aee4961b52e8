"""The descriptor of a blob and its two forms."""

import json

import pytest

from common.artifacts import Artifact
from common.artifacts.proto import from_proto, to_proto
from common.errors import InvalidArgument
from protos.artifact.v1 import artifact_pb2

ARTIFACT = Artifact("ab" * 32, 5, "application/vnd.apache.parquet", "default")


def test_json_goes_both_ways_and_is_canonical() -> None:
    assert Artifact.from_json(ARTIFACT.to_json()) == ARTIFACT
    assert Artifact.from_json(json.loads(ARTIFACT.to_json())) == ARTIFACT
    assert ARTIFACT.to_json().startswith('{"media_type":"application/vnd.apache.parquet","sha256":"abab')


@pytest.mark.parametrize(
    "change",
    [
        {"sha256": "xyz"},
        {"sha256": 5},
        {"size_bytes": -1},
        {"size_bytes": True},
        {"size_bytes": "5"},
        {"tenant": "../etc"},
        {"media_type": "nonsense"},
        {"tenant": None},
    ],
)
def test_json_that_is_no_descriptor_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Artifact.from_json(json.dumps(json.loads(ARTIFACT.to_json()) | change))
    assert caught.value.reason == "BAD_ARTIFACT"


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "{}", b"\xff\xfe", "[" * 100_000])
def test_text_that_is_no_descriptor_is_refused(text: str | bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Artifact.from_json(text)
    assert caught.value.reason == "BAD_ARTIFACT"


def test_the_message_goes_both_ways() -> None:
    message = to_proto(ARTIFACT)

    assert message.uri == f"artifact://default/sha256/{ARTIFACT.sha256}"
    assert from_proto(message, tenant="default") == ARTIFACT
    message.uri = ""
    assert from_proto(message, tenant="default") == ARTIFACT


def test_a_message_cannot_speak_for_another_tenant() -> None:
    with pytest.raises(InvalidArgument) as caught:
        from_proto(to_proto(ARTIFACT), tenant="other", field="shard")
    assert (caught.value.reason, caught.value.field) == ("BAD_ARTIFACT", "shard.uri")


@pytest.mark.parametrize(
    ("message", "reason", "field"),
    [
        (artifact_pb2.Artifact(sha256="0", media_type="text/plain"), "BAD_DIGEST", "artifact.sha256"),
        (artifact_pb2.Artifact(sha256="0" * 64), "BAD_MEDIA_TYPE", "artifact.media_type"),
        (
            artifact_pb2.Artifact(sha256="0" * 64, media_type="text/plain", size_bytes=-1),
            "BAD_VALUE",
            "artifact.size_bytes",
        ),
    ],
)
def test_hostile_messages_are_refused(message: artifact_pb2.Artifact, reason: str, field: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        from_proto(message, tenant="default")
    assert (caught.value.reason, caught.value.field) == (reason, field)
