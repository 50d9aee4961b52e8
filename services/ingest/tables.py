"""Ingest's tables. Every row carries its tenant; times are UTC microseconds.

The samples of an open upload are its shards plus its chunks: a shard is full and lies in the artifact store; a chunk is
what a split has beyond its last full shard, and lies here so that it becomes durable in the same transaction as the
keys and the count. Keys and chunks go when the upload is committed or dropped. `migrations/` makes what is declared
here.
"""

import json
from collections.abc import Sequence

from sqlalchemy import ForeignKeyConstraint
from sqlalchemy.orm import Mapped, mapped_column

from common.database import Base
from deepseek.data import canonical_json
from deepseek.data.manifest import Field


def _belongs_to_upload() -> ForeignKeyConstraint:
    return ForeignKeyConstraint(["tenant", "upload_id"], ["uploads.tenant", "uploads.upload_id"])


class UploadRow(Base):
    """An upload."""

    __tablename__ = "uploads"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    upload_id: Mapped[str] = mapped_column(primary_key=True)
    dataset: Mapped[str]
    schema: Mapped[str]
    """The fields as JSON."""
    num_samples: Mapped[int]
    writer: Mapped[int]
    """Fencing token of the stream that may write: each new stream, commit and deletion takes the next number."""
    deleted: Mapped[bool]
    commit_job: Mapped[str]
    """The last commit's job, `jobs/<id>`; empty before the first."""
    registering_job: Mapped[str]
    """The job that has passed the point of no return: the registry may know the version already."""
    manifest: Mapped[str]
    """The manifest that this job registers, as JSON of the artifact; empty before the first."""
    create_us: Mapped[int]
    # A default, since SQLite adds no column without one to a table, and taking it away means copying the table.
    update_us: Mapped[int] = mapped_column(server_default="0")
    """When a stream began, samples became durable or a commit was asked for, whichever was last."""

    def fields(self) -> tuple[Field, ...]:
        """The schema."""
        return tuple(
            Field(name, kind, repeated, tuple(labels)) for name, kind, repeated, labels in json.loads(self.schema)
        )


def schema_text(fields: Sequence[Field]) -> str:
    """What `UploadRow.schema` holds for a schema."""
    return canonical_json.dumps([[f.name, f.type, f.repeated, list(f.labels)] for f in fields]).decode()


class KeyRow(Base):
    """A key that a durable sample has taken."""

    __tablename__ = "upload_keys"
    __table_args__ = (_belongs_to_upload(), {"sqlite_with_rowid": False})

    tenant: Mapped[str] = mapped_column(primary_key=True)
    upload_id: Mapped[str] = mapped_column(primary_key=True)
    key: Mapped[str] = mapped_column(primary_key=True)


class ShardRow(Base):
    """A full shard of a split: 0, 1, 2, … in reading order."""

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
    """Samples of a split beyond its last full shard, encoded as a shard is; `start` counts from that shard's end."""

    __tablename__ = "upload_chunks"
    __table_args__ = (_belongs_to_upload(),)

    tenant: Mapped[str] = mapped_column(primary_key=True)
    upload_id: Mapped[str] = mapped_column(primary_key=True)
    split: Mapped[str] = mapped_column(primary_key=True)
    start: Mapped[int] = mapped_column(primary_key=True)
    num_samples: Mapped[int]
    num_bytes: Mapped[int]
    """Size by which shards are cut; not the size of `data`."""
    data: Mapped[bytes]
