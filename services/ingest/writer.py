"""The one stream that writes an upload: from checked samples to durable ones.

What is durable is always a prefix of the stream, whatever the splits, so that `num_samples` tells a client where to go
on; and the shards depend on nothing but the samples and their order, so that an upload which was cut off ten times ends
in the same blobs as an undisturbed one. Both hold because durability and shards are kept apart:

- A *flush* makes everything that was received durable, in one transaction: the keys, the count, full shards (put into
  the store just before) and what the splits have beyond them (as chunks, rows of the database). It happens when a
  shard is full, when the buffers hold as much as a shard may, and when the stream ends in whatever way. Flushing only
  the split whose shard is full would leave a hole in the stream; flushing all splits as shards would make the cuts
  depend on when a stream broke.
- A *shard* is cut by `samples.fills_shard` from the chunks and the buffer of its split together. Only full shards
  become blobs before the commit, so a repeated upload adds none. A sample is thus written once, or twice if it had to
  wait in a chunk for its shard to fill.

A crash between putting a shard and the transaction leaves a blob that the resumed upload makes again, bit for bit.

Exactly one stream writes: a new one takes the upload over by raising the fencing token `UploadRow.writer`, which
every flush checks in its transaction. So a client whose connection died without the server noticing goes on at once,
and the old stream fails at its next flush. Memory is bounded by one shard's samples in the buffer, plus one shard
being encoded.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from types import TracebackType
from typing import Self

from sqlalchemy import ColumnElement, delete, func, insert, select
from sqlalchemy.orm import Session

from common.artifacts import Artifact, ArtifactStore
from common.database import Database, now_us
from common.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, ResourceExhausted
from deepseek.data.sample import Sample
from deepseek.data.shards import SHARD_MEDIA_TYPE, encode_shard, read_shard
from services.ingest.samples import (
    ENVELOPE_BYTES,
    SHARD_BYTES,
    SHARD_SAMPLES,
    ReceivedSample,
    accept,
    fills_shard,
    message_bytes,
    num_bytes,
)
from services.ingest.tables import ChunkRow, KeyRow, ShardRow, UploadRow

MAX_SPLITS = 256
"""As many as a manifest may have."""

_QUOTA_DELAY_S = 60.0
"""When to try again if open uploads hold too much together: one of them may be committed or dropped by then."""


@dataclass(frozen=True)
class Limits:
    """How much uploads may hold; samples in shards count as they are stored.

    Attributes:
        upload_bytes: Bytes of one upload.
        open_bytes: Bytes of all open uploads of a tenant together.
        message_bytes: Largest message; a sample must fit into one of ReadSamples.
    """

    upload_bytes: int = 1 << 40
    open_bytes: int = 1 << 42
    message_bytes: int = 64 << 20


@dataclass
class _Split:
    """Where a split stands: its full shards, and its samples beyond them in chunks and, of these, in the buffer."""

    num_shards: int = 0
    num_staged: int = 0
    staged_bytes: int = 0
    num_buffered: int = 0
    buffered_bytes: int = 0


@dataclass
class _Growth:
    """What a flush adds to a split: full shards with their numbers of samples, and a chunk."""

    shards: list[tuple[Artifact, int]] = field(default_factory=list)
    tail: list[Sample] = field(default_factory=list)


class Writer:
    """Takes an upload's samples in order. A context manager: leaving it, in whatever way, makes durable what it holds.

    Not thread-safe. The first error ends it.

    Args:
        database: Ingest's state.
        store: Where shards go.
        upload: The upload, with the fencing token of this writer.
        session: The transaction in which the token was taken.
        limits: How much uploads may hold.
    """

    def __init__(
        self,
        database: Database,
        store: ArtifactStore,
        upload: UploadRow,
        session: Session,
        limits: Limits,
    ) -> None:
        self._room_bytes = limits.upload_bytes - _stored_bytes(session, upload.tenant, upload.upload_id)
        self._limits = limits
        self._database = database
        self._store = store
        self._tenant, self._upload_id, self._token = upload.tenant, upload.upload_id, upload.writer
        self._fields = upload.fields()
        self._splits = _load_splits(session, upload)
        self._buffer: list[Sample] = []
        self._buffered_keys: set[str] = set()
        self._buffered_bytes = 0
        self._broken = False

    def add(self, received: ReceivedSample) -> None:
        """Takes one sample; it is durable after a later flush.

        Raises:
            InvalidArgument: As `samples.accept`, TOO_MANY_SPLITS, or TOO_LARGE if the sample could not be read back.
                The sample is not kept; those before it are.
            AlreadyExists: DUPLICATE_KEY of this sample or, as flushes find it, of one before. As above.
            Aborted: UPLOAD_TAKEN_OVER by a newer stream.
            FailedPrecondition: UPLOAD_CLOSED by a commit or a deletion.
            ResourceExhausted: UPLOAD_TOO_LARGE. As above. QUOTA_EXCEEDED: what came since the last flush is not kept.
            MeshError: The store failed, e.g. STORE_FULL: what was received since the last flush is not kept.
        """
        sample = accept(received, self._fields)
        if sample.key in self._buffered_keys:
            raise _duplicate(sample)
        if sample.split not in self._splits and len(self._splits) >= MAX_SPLITS:
            message = f"an upload has at most {MAX_SPLITS} splits; {sample.split!r} is one more"
            raise InvalidArgument("TOO_MANY_SPLITS", message, field=f"samples[{sample.key}].split")
        sent, limit = message_bytes(sample, self._fields), self._limits.message_bytes - ENVELOPE_BYTES
        if sent > limit:
            message = (
                f"samples[{sample.key}] takes {sent} bytes of a message; at most {limit} can be read back. Make it "
                "smaller, split it into several samples, or raise `max_message_bytes` of ingest"
            )
            raise InvalidArgument("TOO_LARGE", message, field=f"samples[{sample.key}]")
        size = num_bytes(sample)
        if size > self._room_bytes:
            message = (
                "the upload holds as many bytes as ingest takes (`max_upload_bytes`), and waiting does not help: "
                "commit it and open another"
            )
            raise ResourceExhausted("UPLOAD_TOO_LARGE", message, field=f"samples[{sample.key}]")
        self._room_bytes -= size
        split = self._splits.setdefault(sample.split, _Split())
        self._buffer.append(sample)
        self._buffered_keys.add(sample.key)
        self._buffered_bytes += size
        split.num_buffered += 1
        split.buffered_bytes += size
        if (
            fills_shard(split.num_staged + split.num_buffered, split.staged_bytes + split.buffered_bytes)
            or len(self._buffer) >= SHARD_SAMPLES
            or self._buffered_bytes >= SHARD_BYTES
        ):
            self.flush()

    def flush(self) -> None:
        """Makes durable what was added so far.

        Raises:
            MeshError: As `add`.
        """
        if not self._buffer:
            return
        self._broken = True  # until this has worked; an attempt that failed is not repeated on the way out
        with self._database.snapshot() as session:
            keys = select(KeyRow.key).where(*_of(KeyRow, self._upload(session)), KeyRow.key.in_(self._buffered_keys))
            known = set(session.scalars(keys))
            open_bytes = _stored_bytes(session, self._tenant)
        if open_bytes + self._buffered_bytes > self._limits.open_bytes:
            message = (
                f"open uploads of {self._tenant} hold {open_bytes} bytes, and may hold {self._limits.open_bytes} "
                "(`max_open_bytes`): commit some, or drop what was left behind (`deepseek dataset uploads`)"
            )
            raise ResourceExhausted("QUOTA_EXCEEDED", message, field="upload", retry_delay_s=_QUOTA_DELAY_S)
        kept = list(takewhile(lambda sample: sample.key not in known, self._buffer))
        if kept:
            self._make_durable(kept)
        if len(kept) < len(self._buffer):
            raise _duplicate(self._buffer[len(kept)])
        self._buffer, self._buffered_keys, self._buffered_bytes = [], set(), 0
        self._broken = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self._broken:
            self.flush()

    def _make_durable(self, samples: Sequence[Sample]) -> None:
        by_split: dict[str, list[Sample]] = {}
        for sample in samples:
            by_split.setdefault(sample.split, []).append(sample)
        growths = {name: self._cut(name, added) for name, added in by_split.items()}
        chunks = {name: encode_shard(growth.tail, self._fields) for name, growth in growths.items() if growth.tail}
        splits = {name: self._grown(name, growth) for name, growth in growths.items()}
        with self._database.transaction() as session:
            upload = self._upload(session)
            owner = {"tenant": upload.tenant, "upload_id": upload.upload_id}
            for name, growth in growths.items():
                before = self._splits[name]
                if growth.shards:
                    session.execute(delete(ChunkRow).where(*_of(ChunkRow, upload), ChunkRow.split == name))
                for number, (shard, num_samples) in enumerate(growth.shards, before.num_shards):
                    session.add(
                        ShardRow(
                            **owner,
                            split=name,
                            number=number,
                            sha256=shard.sha256,
                            size_bytes=shard.size_bytes,
                            num_samples=num_samples,
                        )
                    )
                if growth.tail:
                    session.add(
                        ChunkRow(
                            **owner,
                            split=name,
                            start=0 if growth.shards else before.num_staged,
                            num_samples=len(growth.tail),
                            num_bytes=sum(map(num_bytes, growth.tail)),
                            data=chunks[name],
                        )
                    )
            session.execute(insert(KeyRow), [{**owner, "key": sample.key} for sample in samples])
            upload.num_samples += len(samples)
            upload.update_us = now_us()
        self._splits.update(splits)

    def _cut(self, name: str, added: Sequence[Sample]) -> _Growth:
        """Puts every shard into the store that a split's chunks and these samples fill."""
        split, growth = self._splits[name], _Growth()
        num_samples, size = split.num_staged, split.staged_bytes
        for sample in added:
            growth.tail.append(sample)
            num_samples, size = num_samples + 1, size + num_bytes(sample)
            if fills_shard(num_samples, size):
                staged = self._staged(name) if num_samples > len(growth.tail) else []
                data = encode_shard([*staged, *growth.tail], self._fields)
                growth.shards.append((self._store.put(self._tenant, data, SHARD_MEDIA_TYPE), num_samples))
                growth.tail, num_samples, size = [], 0, 0
        return growth

    def _grown(self, name: str, growth: _Growth) -> _Split:
        split, tail_bytes = self._splits[name], sum(map(num_bytes, growth.tail))
        if growth.shards:
            return _Split(split.num_shards + len(growth.shards), len(growth.tail), tail_bytes)
        return _Split(split.num_shards, split.num_staged + len(growth.tail), split.staged_bytes + tail_bytes)

    def _staged(self, name: str) -> list[Sample]:
        with self._database.snapshot() as session:
            return list(staged_samples(session, self._upload(session), name))

    def _upload(self, session: Session) -> UploadRow:
        """The upload's row, if this is still its writer."""
        upload = session.get(UploadRow, (self._tenant, self._upload_id))
        assert upload is not None, "the rows of uploads stay"
        if upload.writer == self._token:
            return upload
        if upload.deleted or upload.commit_job:
            message = f"uploads/{self._upload_id} was committed or deleted meanwhile"
            raise FailedPrecondition("UPLOAD_CLOSED", message, field="upload")
        message = f"a newer stream has taken uploads/{self._upload_id} over; only one can write"
        raise Aborted("UPLOAD_TAKEN_OVER", message, field="upload")


def staged_samples(session: Session, upload: UploadRow, split: str) -> Iterator[Sample]:
    """What a split has beyond its full shards, in order."""
    chunks = select(ChunkRow.data).where(*_of(ChunkRow, upload), ChunkRow.split == split).order_by(ChunkRow.start)
    for data in session.scalars(chunks):
        yield from read_shard(data, upload.fields())


def _stored_bytes(session: Session, tenant: str, upload_id: str | None = None) -> int:
    """Bytes of an upload, or of all that a tenant has not committed or dropped."""
    total = 0
    for table, size in ((ShardRow, ShardRow.size_bytes), (ChunkRow, ChunkRow.num_bytes)):
        query = select(func.sum(size)).where(table.tenant == tenant)
        if upload_id is not None:
            query = query.where(table.upload_id == upload_id)
        total += int(session.scalar(query) or 0)
    return total


def _load_splits(session: Session, upload: UploadRow) -> dict[str, _Split]:
    splits: dict[str, _Split] = {}
    shards = select(ShardRow.split, func.count()).where(*_of(ShardRow, upload)).group_by(ShardRow.split)
    for name, num_shards in session.execute(shards):
        splits[name] = _Split(num_shards=num_shards)
    sums = func.sum(ChunkRow.num_samples), func.sum(ChunkRow.num_bytes)
    chunks = select(ChunkRow.split, *sums).where(*_of(ChunkRow, upload)).group_by(ChunkRow.split)
    for name, num_staged, staged_bytes in session.execute(chunks):
        split = splits.setdefault(name, _Split())
        split.num_staged, split.staged_bytes = int(num_staged), int(staged_bytes)
    return splits


def _of(table: type[KeyRow | ShardRow | ChunkRow], upload: UploadRow) -> tuple[ColumnElement[bool], ...]:
    return table.tenant == upload.tenant, table.upload_id == upload.upload_id


def _duplicate(sample: Sample) -> AlreadyExists:
    message = f"the upload already has a sample with the key {sample.key!r}; keys are unique within an upload"
    return AlreadyExists("DUPLICATE_KEY", message, field=f"samples[{sample.key}].key")
