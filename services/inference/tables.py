"""The inference service's one table: what is loaded, and so what a restart loads again.

It holds all that takes, digests included: a restart asks neither the registry nor, while the cache is whole, the store.
`file_name` to `reason` say which file was chosen, how it is computed and why, and `host` for which kind of host. On
another kind of host the choice is made again. Rows from before these columns existed have no values in them.
"""

from sqlalchemy import text
from sqlalchemy.orm import Mapped, mapped_column

from common.database import Base


class LoadedModelRow(Base):
    """The served version of a model."""

    __tablename__ = "loaded_models"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    model_id: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int]
    manifest_sha256: Mapped[str]
    file_sha256: Mapped[str]
    update_us: Mapped[int]
    file_name: Mapped[str] = mapped_column(server_default=text("''"))
    variant: Mapped[str] = mapped_column(server_default=text("''"))
    mode: Mapped[str] = mapped_column(server_default=text("''"))
    reason: Mapped[str] = mapped_column(server_default=text("''"))
    host: Mapped[str] = mapped_column(server_default=text("''"))
