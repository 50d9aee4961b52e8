"""The payload of an image: a 48-bit id, and a 16-bit keyed hash of the id, which detects misread ids."""

import hashlib

from deepseek.watermark.ids import ID_BITS, check_id
from deepseek.watermark.keys import WatermarkKey

MAC_BITS = 16


class Payload:
    """Converts ids to payloads and back. Immutable, thread-safe."""

    def __init__(self, key: WatermarkKey) -> None:
        self._secret = key.subkey("image/payload")

    def seal(self, message: int) -> int:
        """Returns an id followed by its hash, as a 64-bit integer.

        Raises:
            InvalidArgument: BAD_ID if `message` is not an id.
        """
        message = check_id(message)
        return message << MAC_BITS | self._mac(message)

    def open(self, data: int) -> int | None:
        """Returns the id in a 64-bit payload; None if the hash does not match the id and this key."""
        message = data >> MAC_BITS
        return message if self._mac(message) == data & (1 << MAC_BITS) - 1 else None

    def _mac(self, message: int) -> int:
        digest = hashlib.blake2b(message.to_bytes(ID_BITS // 8, "big"), key=self._secret, digest_size=MAC_BITS // 8)
        return int.from_bytes(digest.digest(), "big")
