"""The descriptor of a blob, similar to an OCI descriptor: it contains the digest, size and type, but no location.

The URI contains only the tenant and the digest, so a store can move without invalidating references to its blobs.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from common.errors import InvalidArgument
from common.names import check_id

_SHA256 = re.compile(r"[0-9a-f]{64}")
# RFC 6838, section 4.2, with optional parameters.
_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}(;[ -~]{1,126})?")


@dataclass(frozen=True)
class Artifact:
    """A reference to an immutable blob.

    Attributes:
        sha256: SHA-256 of the content, 64 lower-case hexadecimal digits.
        size_bytes: Length of the content in bytes.
        media_type: RFC 6838 media type.
        tenant: Tenant that owns the blob. Tenants never share blobs, even if the content is identical.
    """

    sha256: str
    size_bytes: int
    media_type: str
    tenant: str

    @property
    def uri(self) -> str:
        """URI of the blob, `artifact://<tenant>/sha256/<hex>`, which does not depend on the location of the store."""
        return f"artifact://{self.tenant}/sha256/{self.sha256}"

    def to_json(self) -> str:
        """Returns the descriptor as canonical JSON text, with sorted keys and no spaces."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, data: str | bytes | Mapping[str, object]) -> "Artifact":
        """Reads a descriptor that was written by `to_json`.

        Args:
            data: JSON text of the descriptor, or the object parsed from it.

        Raises:
            InvalidArgument: BAD_ARTIFACT if `data` is not a descriptor.
        """
        try:
            match data if isinstance(data, Mapping) else json.loads(data):
                case {
                    "sha256": str(sha256),
                    "size_bytes": int(size_bytes),
                    "media_type": str(media_type),
                    "tenant": str(tenant),
                } if size_bytes >= 0 and not isinstance(size_bytes, bool):
                    check_sha256(sha256)
                    check_media_type(media_type)
                    return cls(sha256, size_bytes, media_type, check_id(tenant, field="tenant"))
        except (ValueError, RecursionError, InvalidArgument) as error:
            raise InvalidArgument("BAD_ARTIFACT", f"the data is not an artifact descriptor: {error}") from error
        raise InvalidArgument(
            "BAD_ARTIFACT", "the data is not an artifact descriptor: fields are missing or have the wrong type"
        )


def check_sha256(sha256: str, *, field: str = "sha256") -> str:
    """Checks a SHA-256 digest and returns it.

    Raises:
        InvalidArgument: BAD_DIGEST if the digest does not have 64 lower-case hexadecimal digits.
    """
    if not _SHA256.fullmatch(sha256):
        message = f"{sha256[:80]!r} is not a SHA-256 digest; a digest has 64 lower-case hexadecimal digits"
        raise InvalidArgument("BAD_DIGEST", message, field=field)
    return sha256


def check_media_type(media_type: str, *, field: str = "media_type") -> str:
    """Checks a media type and returns it.

    Raises:
        InvalidArgument: BAD_MEDIA_TYPE if the media type is not of the form `type/subtype`, in lower case.
    """
    if not _MEDIA_TYPE.fullmatch(media_type):
        message = f"{media_type[:80]!r} is not a media type; use the form type/subtype, e.g. application/json"
        raise InvalidArgument("BAD_MEDIA_TYPE", message, field=field)
    return media_type
