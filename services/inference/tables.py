"""The inference service's only table: the loaded models, which a restart loads again.

A restart needs nothing else: the table includes digests, so the registry is not called and, if all files are in the
cache, the store is not read. The columns from `file_name` to `reason` record the chosen file, its mode of computation,
and why it was chosen. `host` records the kind of host that the choice was made for; on a host of another kind, the
choice is made again. `labels` holds the labels of the outputs as a JSON object. In rows written before these columns
existed, the columns are empty, and the choice is made again as well.
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
    labels: Mapped[str] = mapped_column(server_default=text("''"))
