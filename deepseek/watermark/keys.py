"""Keys of marks: one for each tenant, modality and epoch, all out of one master secret (HKDF-SHA256, RFC 5869).

Who knows one key can neither tell the master nor another tenant's key from it. An epoch is a number that rotation
counts up; what was marked under an earlier one is found with the key of that epoch.
"""

from dataclasses import dataclass, field

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.kdf.hkdf import HKDF, HKDFExpand

from common.errors import InvalidArgument
from common.names import check_id
from common.scalars import whole_number

KEY_BYTES = 32
MIN_MASTER_BYTES = 32
MODALITIES = ("text", "image")


@dataclass(frozen=True)
class WatermarkKey:
    """The key of one tenant's marks in one kind of content.

    Attributes:
        tenant: Whose.
        modality: One of MODALITIES.
        epoch: Which of the tenant's keys, from 0.
        secret: 32 bytes; never shown.
    """

    tenant: str
    modality: str
    epoch: int
    secret: bytes = field(repr=False)

    def subkey(self, purpose: str, num_bytes: int = KEY_BYTES) -> bytes:
        """A key for one purpose; those of different purposes tell nothing of each other."""
        return HKDFExpand(hashes.SHA256(), num_bytes, purpose.encode()).derive(self.secret)


def derive_key(master: bytes, *, tenant: str, modality: str, epoch: int) -> WatermarkKey:
    """Derives a key.

    Args:
        master: The master secret, at least 32 random bytes.
        tenant: Whose key.
        modality: One of MODALITIES.
        epoch: From 0.

    Raises:
        InvalidArgument: BAD_MASTER_KEY, BAD_NAME, UNKNOWN_MODALITY, BAD_VALUE.
    """
    if len(master) < MIN_MASTER_BYTES:
        message = f"the master secret has {len(master)} bytes; make at least {MIN_MASTER_BYTES} random ones"
        raise InvalidArgument("BAD_MASTER_KEY", message, field="master")
    if modality not in MODALITIES:
        message = f"{modality!r} is no modality; there are {', '.join(MODALITIES)}"
        raise InvalidArgument("UNKNOWN_MODALITY", message, field="modality")
    epoch = whole_number(epoch, "epoch")
    if epoch < 0:
        raise InvalidArgument("BAD_VALUE", f"epoch is {epoch}; epochs count from 0", field="epoch")
    info = f"deepseek-mesh/watermark/{check_id(tenant, field='tenant')}/{modality}/{epoch}".encode()
    secret = HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=info).derive(master)
    return WatermarkKey(tenant, modality, epoch, secret)
