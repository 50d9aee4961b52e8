"""The durable samples of an upload, as rows of the database."""

from collections.abc import Iterator
from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, func, select
from sqlalchemy.orm import Session

from deepseek.data.quarantine import QUARANTINE_SPLIT, read_rows
from deepseek.data.sample import Sample
from deepseek.data.shards import read_shard
from services.ingest.tables import ChunkRow, KeyRow, ShardRow, UploadRow


@dataclass
class Split:
    """State of a split: its full shards, and the samples after them, which are in chunks or still in the buffer."""

    num_shards: int = 0
    num_staged: int = 0
    staged_bytes: int = 0
    num_buffered: int = 0
    buffered_bytes: int = 0


def staged_samples(session: Session, upload: UploadRow, split: str) -> Iterator[Sample]:
    """Yields, in order, the samples of a split that come after the split's last full shard."""
    chunks = select(ChunkRow.data).where(*of_upload(ChunkRow, upload), ChunkRow.split == split).order_by(ChunkRow.start)
    for data in session.scalars(chunks):
        yield from read_rows(data) if split == QUARANTINE_SPLIT else read_shard(data, upload.fields())


def discard_samples(session: Session, upload: UploadRow) -> None:
    """Deletes an upload's shard, chunk and key rows."""
    for table in (KeyRow, ChunkRow, ShardRow):
        session.execute(delete(table).where(*of_upload(table, upload)))


def stored_bytes(session: Session, tenant: str, upload_id: str | None = None) -> int:
    """Returns the size of an upload or, without an upload id, of all open uploads of a tenant, in bytes."""
    total = 0
    for table, size in ((ShardRow, ShardRow.size_bytes), (ChunkRow, ChunkRow.num_bytes)):
        query = select(func.sum(size)).where(table.tenant == tenant)
        if upload_id is not None:
            query = query.where(table.upload_id == upload_id)
        total += int(session.scalar(query) or 0)
    return total


def load_splits(session: Session, upload: UploadRow) -> dict[str, Split]:
    splits: dict[str, Split] = {}
    shards = select(ShardRow.split, func.count()).where(*of_upload(ShardRow, upload)).group_by(ShardRow.split)
    for name, num_shards in session.execute(shards):
        splits[name] = Split(num_shards=num_shards)
    sums = func.sum(ChunkRow.num_samples), func.sum(ChunkRow.num_bytes)
    chunks = select(ChunkRow.split, *sums).where(*of_upload(ChunkRow, upload)).group_by(ChunkRow.split)
    for name, num_staged, staged_bytes in session.execute(chunks):
        split = splits.setdefault(name, Split())
        split.num_staged, split.staged_bytes = int(num_staged), int(staged_bytes)
    return splits


def of_upload(table: type[KeyRow | ShardRow | ChunkRow], upload: UploadRow) -> tuple[ColumnElement[bool], ...]:
    return table.tenant == upload.tenant, table.upload_id == upload.upload_id
