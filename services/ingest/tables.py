"""Ingest's tables. Every row stores its tenant; times are UTC microseconds.

The samples of an open upload are stored in shards and chunks. Shards are full, and their bytes are in the artifact
store. Chunks hold the samples after a split's last full shard. Chunks are in the database, so that their samples become
durable in the same transaction as the samples' keys and the upload's sample count. A commit or deletion removes an
upload's shard, chunk and key rows. `migrations/` creates the tables.
"""

import json
from collections.abc import Sequence

from sqlalchemy import ForeignKeyConstraint, false
from sqlalchemy.orm import Mapped, mapped_column

from common.database import Base
from deepseek.data import canonical_json
from deepseek.data.manifest import Field
from deepseek.data.quarantine import QUARANTINE_FIELDS, QUARANTINE_SPLIT


def _belongs_to_upload() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["tenant", "upload_id"], ["uploads.tenant", "uploads.upload_id"])


class UploadRow(Base):
    """An upload."""

    __tablename__ = "uploads"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    upload_id: Mapped[str] = mapped_column(primary_key=True)
    dataset: Mapped[str]
    schema: Mapped[str]
    """Fields as JSON."""
    num_samples: Mapped[int]
    num_quarantined: Mapped[int] = mapped_column(server_default="0")
    quarantine: Mapped[bool] = mapped_column(server_default=false())
    """Whether invalid samples are kept aside instead of ending the stream."""
    sources: Mapped[str] = mapped_column(server_default="[]")
    """Names of the resources that the version is made from, as JSON."""
    writer: Mapped[int]
    """Fencing token of the stream that may write to the upload. Each new stream, commit or deletion increments the
    token."""
    deleted: Mapped[bool]
    commit_job: Mapped[str]
    """Job of the last commit, `jobs/<id>`; empty before the first commit, and once a failed commit has been cleared."""
    registering_job: Mapped[str]
    """Job of the commit that has passed the point of no return: the registry may already have the version."""
    manifest: Mapped[str]
    """Manifest that `registering_job` registers, as the JSON of an artifact; empty before the first commit."""
    create_us: Mapped[int]
    # The column keeps its default, because SQLite cannot add a NOT NULL column without a default, and removing the
    # default later would copy the table.
    update_us: Mapped[int] = mapped_column(server_default="0")
    """Time of the last write: the creation of the upload, the start of a stream, a flush of samples, or the acceptance
    of a commit; UTC microseconds."""

    def fields(self, split: str = "") -> tuple[Field, ...]:
        """Returns the schema of the upload, or that of the quarantine if `split` is `QUARANTINE_SPLIT`."""
        if split == QUARANTINE_SPLIT:
            return QUARANTINE_FIELDS
        return tuple(
            Field(name, kind, repeated, tuple(labels)) for name, kind, repeated, labels in json.loads(self.schema)
        )

    def source_names(self) -> list[str]:
        """Returns the names of the resources that the version is made from."""
        return list(json.loads(self.sources))


def schema_text(fields: Sequence[Field]) -> str:
    """Returns a schema as JSON for `UploadRow.schema`."""
    return canonical_json.dumps([[f.name, f.type, f.repeated, list(f.labels)] for f in fields]).decode()


class KeyRow(Base):
    """Key of a durable sample."""

    __tablename__ = "upload_keys"
    __table_args__ = (_belongs_to_upload(), {"sqlite_with_rowid": False})

    tenant: Mapped[str] = mapped_column(primary_key=True)
    upload_id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)


class ShardRow(Base):
    """A full shard of a split; `number` is 0, 1, 2, … in reading order."""

    __tablename__ = "upload_shards"
    __table_args__ = (_belongs_to_upload(),)

    tenant: Mapped[str] = mapped_column(primary_key=True)
    upload_id: Mapped[str] = mapped_column(primary_key=True)
    split: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    sha256: Mapped[str]
    size_bytes: Mapped[int]
    num_samples: Mapped[int]


class ChunkRow(Base):
    """Samples of a split that follow its last full shard, encoded like a shard.

    `start` is the zero-based index of the chunk's first sample among all samples that follow that shard.
    """

    __tablename__ = "upload_chunks"
    __table_args__ = (_belongs_to_upload(),)

    tenant: Mapped[str] = mapped_column(primary_key=True)
    upload_id: Mapped[str] = mapped_column(primary_key=True)
    split: Mapped[str] = mapped_column(primary_key=True)
    start: Mapped[int] = mapped_column(primary_key=True)
    num_samples: Mapped[int]
    num_bytes: Mapped[int]
    """Total of `samples.num_bytes`, which counts towards a full shard; not the size of `data`."""
    data: Mapped[bytes]
