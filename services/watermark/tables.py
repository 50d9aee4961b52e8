"""The watermark service's one table: which keys there are. Keys are derived when they are used, and kept nowhere."""

from sqlalchemy.orm import Mapped, mapped_column

from common.database import Base


class KeyRow(Base):
    """A key of a tenant and modality. The newest one marks, unless it was revoked."""

    __tablename__ = "keys"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    modality: Mapped[str] = mapped_column(primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    """0, 1, 2, … within tenant and modality."""
    fingerprint: Mapped[str]
    """Of the key, by which another master secret than the one that it was derived from is noticed."""
    create_us: Mapped[int]
    revoke_us: Mapped[int | None]
    """When it was revoked; None if it was not."""
