"""The watermark service's only table: the existing keys. Their secrets are not stored, but derived when needed."""

from sqlalchemy.orm import Mapped, mapped_column

from common.database import Base


class KeyRow(Base):
    """A key of one tenant for one modality. The newest key is the marking key, unless it has been revoked."""

    __tablename__ = "keys"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    modality: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    """0, 1, 2, … within the tenant and modality."""
    fingerprint: Mapped[str]
    """Fingerprint of the key, which is used to detect a wrong master secret."""
    create_us: Mapped[int]
    revoke_us: Mapped[int | None]
    """Time of revocation, UTC microseconds; None if the key is not revoked."""
