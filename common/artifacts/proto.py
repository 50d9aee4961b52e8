"""Artifact <-> deepseek.artifact.v1.Artifact."""

from common.artifacts.artifact import Artifact, check_media_type, check_sha256
from common.errors import InvalidArgument
from protos.artifact.v1 import artifact_pb2


def to_proto(artifact: Artifact) -> artifact_pb2.Artifact:
    """Returns the message of a descriptor."""
    return artifact_pb2.Artifact(
        uri=artifact.uri, sha256=artifact.sha256, size_bytes=artifact.size_bytes, media_type=artifact.media_type
    )


def from_proto(message: artifact_pb2.Artifact, *, tenant: str, field: str = "artifact") -> Artifact:
    """Reads a message; the tenant is the caller's, never what the message says.

    Raises:
        InvalidArgument: BAD_DIGEST, BAD_MEDIA_TYPE, BAD_VALUE (negative size), or BAD_ARTIFACT if the message carries
            a URI of another blob or tenant.
    """
    check_sha256(message.sha256, field=f"{field}.sha256")
    check_media_type(message.media_type, field=f"{field}.media_type")
    if message.size_bytes < 0:
        raise InvalidArgument("BAD_VALUE", "a size is not negative", field=f"{field}.size_bytes")
    artifact = Artifact(message.sha256, message.size_bytes, message.media_type, tenant)
    if message.uri not in ("", artifact.uri):
        raise InvalidArgument("BAD_ARTIFACT", "the URI is another blob's than the digest says", field=f"{field}.uri")
    return artifact
