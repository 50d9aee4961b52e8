"""What an image carries: an id of 48 bits and, so that nothing else is taken for one, 16 bits of a keyed hash of it."""

import hashlib

from deepseek.watermark.ids import ID_BITS, check_id
from deepseek.watermark.keys import WatermarkKey

MAC_BITS = 16


class Payload:
    """Seals ids and opens what was read. Immutable, thread-safe.

    Args:
        key: The key.
    """

    def __init__(self, key: WatermarkKey) -> None:
        self._secret = key.subkey("image/payload")

    def seal(self, message: int) -> int:
        """The 64 bits for an id.

        Raises:
            InvalidArgument: BAD_ID.
        """
        message = check_id(message)
        return message << MAC_BITS | self._mac(message)

    def open(self, data: int) -> int | None:
        """The id in 64 bits; None if they were not sealed with this key."""
        message = data >> MAC_BITS
        return message if self._mac(message) == data & (1 << MAC_BITS) - 1 else None

    def _mac(self, message: int) -> int:
        digest = hashlib.blake2b(message.to_bytes(ID_BITS // 8, "big"), key=self._secret, digest_size=MAC_BITS // 8)
        return int.from_bytes(digest.digest(), "big")
