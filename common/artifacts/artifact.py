"""The descriptor of a blob, like an OCI descriptor: what it is, not where it lies.

The URI names tenant and digest only, so a store can move without a change to any row or message that refers to it.
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
        tenant: Whose blob it is; tenants share nothing, not even equal content.
    """

    sha256: str
    size_bytes: int
    media_type: str
    tenant: str

    @property
    def uri(self) -> str:
        """`artifact://<tenant>/sha256/<hex>`, independent of where the store lies."""
        return f"artifact://{self.tenant}/sha256/{self.sha256}"

    def to_json(self) -> str:
        """Returns canonical JSON text: sorted keys, no spaces."""
        return json.dumps(asdict(self), sort_keys=True, separators=(",", ":"))

    @classmethod
    def from_json(cls, data: str | bytes | Mapping[str, object]) -> "Artifact":
        """Reads what `to_json` wrote.

        Args:
            data: The text, or the object that it says, where it was part of a larger one.

        Raises:
            InvalidArgument: BAD_ARTIFACT if it is not such a descriptor.
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
            raise InvalidArgument("BAD_ARTIFACT", f"this is not an artifact descriptor: {error}") from error
        raise InvalidArgument("BAD_ARTIFACT", "this is not an artifact descriptor: fields are missing or mistyped")


def check_sha256(sha256: str, *, field: str = "sha256") -> str:
    """Returns the digest if it is one.

    Raises:
        InvalidArgument: BAD_DIGEST unless it has 64 lower-case hexadecimal digits.
    """
    if not _SHA256.fullmatch(sha256):
        raise InvalidArgument("BAD_DIGEST", "a SHA-256 has 64 lower-case hexadecimal digits", field=field)
    return sha256


def check_media_type(media_type: str, *, field: str = "media_type") -> str:
    """Returns the media type if it is one.

    Raises:
        InvalidArgument: BAD_MEDIA_TYPE unless it reads `type/subtype` in lower case.
    """
    if not _MEDIA_TYPE.fullmatch(media_type):
        raise InvalidArgument("BAD_MEDIA_TYPE", "a media type reads like application/json", field=field)
    return media_type
