"""Watermark keys, derived from one master secret (HKDF-SHA256, RFC 5869): one key per tenant, modality and epoch.

A key reveals neither the master secret nor any other key. Each key rotation increments the epoch; content that was
marked in an earlier epoch is detected with the key of that epoch.
"""

from dataclasses import dataclass, field

from common.errors import InvalidArgument
from common.names import check_id
from common.scalars import whole_number

KEY_BYTES = 32
MIN_MASTER_BYTES = 32
MODALITIES = ("text", "image")


@dataclass(frozen=True)
class WatermarkKey:
    """A tenant's watermark key for one modality and one epoch.

    Attributes:
        tenant: Tenant that owns the key.
        modality: One of MODALITIES.
        epoch: Index of the key among the tenant's keys for this modality, counted from 0.
        secret: 32 bytes, omitted from `repr`.
    """

    tenant: str
    modality: str
    epoch: int
    secret: bytes = field(repr=False)

    def subkey(self, purpose: str, num_bytes: int = KEY_BYTES) -> bytes:
        """Returns a key derived for one purpose. The derived key reveals nothing about keys for other purposes."""
        # Imported here and below, because the registry and clients use this module but never derive a key.
        from cryptography.hazmat.primitives import hashes
        from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

        return HKDFExpand(hashes.SHA256(), num_bytes, purpose.encode()).derive(self.secret)


def derive_key(master: bytes, *, tenant: str, modality: str, epoch: int) -> WatermarkKey:
    """Derives a tenant's key for a modality and an epoch.

    Args:
        master: Master secret, at least 32 random bytes.
        tenant: Tenant that owns the key.
        modality: One of MODALITIES.
        epoch: Index of the key among the tenant's keys for this modality, counted from 0.

    Raises:
        InvalidArgument: BAD_MASTER_KEY if `master` is too short; BAD_NAME if `tenant` is not a valid id;
            UNKNOWN_MODALITY if `modality` is not one of MODALITIES; BAD_VALUE if `epoch` is not a whole number or is
            negative.
    """
    if len(master) < MIN_MASTER_BYTES:
        message = f"the master secret has {len(master)} bytes; use at least {MIN_MASTER_BYTES} random bytes"
        raise InvalidArgument("BAD_MASTER_KEY", message, field="master")
    if modality not in MODALITIES:
        message = f"unknown modality {modality!r}; use one of: {', '.join(MODALITIES)}"
        raise InvalidArgument("UNKNOWN_MODALITY", message, field="modality")
    epoch = whole_number(epoch, "epoch")
    if epoch < 0:
        raise InvalidArgument("BAD_VALUE", f"epoch is {epoch}; it must be at least 0", field="epoch")
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    info = f"deepseek-mesh/watermark/{check_id(tenant, field='tenant')}/{modality}/{epoch}".encode()
    secret = HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=info).derive(master)
    return WatermarkKey(tenant, modality, epoch, secret)
