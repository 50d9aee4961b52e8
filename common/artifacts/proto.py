"""Converts artifact descriptors to deepseek.artifact.v1.Artifact and back."""

from common.artifacts.artifact import Artifact, check_media_type, check_sha256
from common.errors import InvalidArgument
from protos.artifact.v1 import artifact_pb2


def to_proto(artifact: Artifact) -> artifact_pb2.Artifact:
    """Converts a descriptor to a message."""
    return artifact_pb2.Artifact(
        uri=artifact.uri, sha256=artifact.sha256, size_bytes=artifact.size_bytes, media_type=artifact.media_type
    )


def from_proto(message: artifact_pb2.Artifact, *, tenant: str, field: str = "artifact") -> Artifact:
    """Converts a message to a descriptor. The tenant comes from the argument, never from the URI in the message.

    Raises:
        InvalidArgument: BAD_DIGEST, BAD_MEDIA_TYPE, BAD_VALUE (negative size), or BAD_ARTIFACT if the URI in the
            message belongs to another blob or another tenant.
    """
    check_sha256(message.sha256, field=f"{field}.sha256")
    check_media_type(message.media_type, field=f"{field}.media_type")
    if message.size_bytes < 0:
        raise InvalidArgument(
            "BAD_VALUE", f"the size is {message.size_bytes}; it must not be negative", field=f"{field}.size_bytes"
        )
    artifact = Artifact(message.sha256, message.size_bytes, message.media_type, tenant)
    if message.uri not in ("", artifact.uri):
        message_text = f"the URI does not match the digest and the tenant; send {artifact.uri}, or leave the URI empty"
        raise InvalidArgument("BAD_ARTIFACT", message_text, field=f"{field}.uri")
    return artifact
