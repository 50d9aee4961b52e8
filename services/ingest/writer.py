"""Writes the samples of one upload. The durable samples are always a prefix of the received samples.

A flush makes all received samples durable in one transaction: full shards are stored as blobs, and the rest of each
split as chunks in the database. Only `samples.fills_shard` decides where a shard ends, so an interrupted upload results
in the same blobs as an uninterrupted one. `num_samples` shows a client where to resume. A new stream takes over an
upload by incrementing the fencing token `UploadRow.writer`, which every flush checks. If the upload has a quarantine,
invalid samples become rows of the split `QUARANTINE_SPLIT`, which is otherwise like any split.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from types import TracebackType
from typing import Self

from sqlalchemy import delete, insert, select
from sqlalchemy.orm import Session

from common.artifacts import Artifact, ArtifactStore
from common.database import Database, now_us
from common.errors import Aborted, AlreadyExists, FailedPrecondition, InvalidArgument, ResourceExhausted
from deepseek.data.manifest import Field
from deepseek.data.quarantine import QUARANTINE_FIELDS, QUARANTINE_SPLIT, to_row
from deepseek.data.rejected import Rejected
from deepseek.data.sample import Sample
from deepseek.data.shards import SHARD_MEDIA_TYPE, encode_shard
from services.ingest.checks import Checks, Outcome
from services.ingest.samples import (
    ENVELOPE_BYTES,
    SHARD_BYTES,
    SHARD_SAMPLES,
    Received,
    ReceivedSample,
    fills_shard,
    message_bytes,
    num_bytes,
    stated,
    surely_fits,
)
from services.ingest.stored import Split, load_splits, of_upload, staged_samples, stored_bytes
from services.ingest.tables import ChunkRow, KeyRow, ShardRow, UploadRow

MAX_SPLITS = 256
"""Maximum number of splits in a manifest."""

MAX_QUARANTINED = 100_000
"""Maximum number of samples in a quarantine. If more are invalid, the schema is probably wrong."""

_QUOTA_DELAY_S = 60.0
"""Retry delay for a tenant whose open uploads are too large. By then, one of them may have been committed or
deleted."""


@dataclass(frozen=True)
class Limits:
    """Maximum sizes, in bytes. The samples of a full shard count as the size of its blob, others as `num_bytes`.

    Attributes:
        upload_bytes: Limit for one upload.
        open_bytes: Limit for all open uploads of a tenant together.
        message_bytes: Maximum size of a message. Every sample must fit in a ReadSamples message.
    """

    upload_bytes: int = 1 << 40
    open_bytes: int = 1 << 42
    message_bytes: int = 64 << 20


@dataclass
class _Growth:
    """What a flush adds to a split: full shards, each with its number of samples, and the samples of a chunk."""

    shards: list[tuple[Artifact, int]] = field(default_factory=list)
    tail: list[Sample] = field(default_factory=list)


class Writer:
    """Receives the samples of an upload in order.

    A context manager that flushes on exit, even after an exception, unless a flush has failed. Not thread-safe. After
    an error, no more samples may be added. At most one message, one shard of received samples and one shard being
    encoded are in memory.

    Args:
        database: Database of ingest.
        store: Store of the shards.
        upload: The upload's row, with this writer's fencing token.
        session: Session of the transaction that set this token.
        limits: Maximum sizes.
        checks: Checks the samples.
    """

    def __init__(
        self,
        database: Database,
        store: ArtifactStore,
        upload: UploadRow,
        session: Session,
        limits: Limits,
        checks: Checks,
    ) -> None:
        self._room_bytes = limits.upload_bytes - stored_bytes(session, upload.tenant, upload.upload_id)
        self._limits = limits
        self._checks = checks
        self._database = database
        self._store = store
        self._tenant, self._upload_id, self._token = upload.tenant, upload.upload_id, upload.writer
        self._fields, self._quarantines = upload.fields(), upload.quarantine
        self._num_durable, self._num_quarantined = upload.num_samples + upload.num_quarantined, upload.num_quarantined
        self._splits = load_splits(session, upload)
        self._buffer: list[Sample] = []
        self._buffered_keys: set[str] = set()
        self._buffered_bytes = 0
        self._broken = False

    def add(self, samples: Iterable[Received]) -> None:
        """Adds the samples of one message. They become durable with the next flush.

        If the upload has a quarantine, an invalid sample is put there, unless it was damaged on the way.

        Raises:
            InvalidArgument: A reason of `samples.accept`; TOO_MANY_SPLITS; TOO_LARGE if a sample would not fit in a
                ReadSamples message; NO_QUARANTINE if the sender considers a sample invalid; BAD_VALUE if the sender's
                reason is not a reason code. Earlier samples are kept.
            AlreadyExists: DUPLICATE_KEY for a sample or, if this call flushes, for an earlier one. The samples
                before the duplicate are kept.
            Aborted: UPLOAD_TAKEN_OVER if a newer stream has taken over the upload.
            FailedPrecondition: UPLOAD_CLOSED if the upload has been committed or deleted; QUARANTINE_FULL;
                PACKAGE_MISSING.
            ResourceExhausted: UPLOAD_TOO_LARGE, in which case earlier samples are kept; QUOTA_EXCEEDED, in which case
                all samples since the last flush are lost.
            MeshError: The store failed, e.g. STORE_FULL. All samples since the last flush are lost.
        """
        for outcome in self._checks.run(samples, self._fields):
            self._add(outcome)

    def _add(self, outcome: Outcome) -> None:
        received, found = outcome
        if isinstance(received, Rejected):
            sample = self._quarantined(stated(received, has_quarantine=self._quarantines))
        else:
            try:
                sample = self._acceptable(found)
                self._buffered_keys.add(sample.key)
            except (InvalidArgument, AlreadyExists) as error:
                if not self._quarantines or error.reason == "DIGEST_MISMATCH":
                    raise
                sample = self._quarantined(received.rejected(error))
        size = num_bytes(sample)
        if size > self._room_bytes:
            message = (
                "the sample would make the upload larger than `max_upload_bytes`, and retrying does not help; "
                "commit the upload and continue in another one"
            )
            raise ResourceExhausted("UPLOAD_TOO_LARGE", message, field=f"samples[{sample.key}]")
        self._room_bytes -= size
        split = self._splits.setdefault(sample.split, Split())
        self._buffer.append(sample)
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
        """Makes all added samples durable.

        Raises:
            MeshError: An error that `add` documents.
        """
        if not self._buffer:
            return
        self._broken = True  # until the flush succeeds: a failed flush is not repeated on exit
        with self._database.snapshot() as session:
            keys = select(KeyRow.key).where(
                *of_upload(KeyRow, self._upload(session)), KeyRow.key.in_(self._buffered_keys)
            )
            known = set(session.scalars(keys))
            open_bytes = stored_bytes(session, self._tenant)
        if open_bytes + self._buffered_bytes > self._limits.open_bytes:
            message = (
                f"the open uploads of {self._tenant} hold {open_bytes} bytes; the limit (`max_open_bytes`) is "
                f"{self._limits.open_bytes}. Commit some of them, or delete abandoned ones "
                "(`deepseek dataset uploads`)"
            )
            raise ResourceExhausted("QUOTA_EXCEEDED", message, field="upload", retry_delay_s=_QUOTA_DELAY_S)
        if self._quarantines:
            self._buffer = [
                self._quarantined_duplicate(sample, position)
                if _is_accepted(sample) and sample.key in known
                else sample
                for position, sample in enumerate(self._buffer, self._num_durable + 1)
            ]
            known = set()
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

    def _acceptable(self, sample: Sample | InvalidArgument | None) -> Sample:
        """Returns a sample that is valid in itself, unless the upload cannot take it."""
        assert sample is not None, "every sample that the sender considers valid is checked"
        if isinstance(sample, InvalidArgument):
            raise sample
        if sample.key in self._buffered_keys:
            raise _duplicate(sample)
        if sample.split not in self._splits and len(self._splits.keys() - {QUARANTINE_SPLIT}) >= MAX_SPLITS:
            message = f"an upload can have at most {MAX_SPLITS} splits; {sample.split!r} would exceed that limit"
            raise InvalidArgument("TOO_MANY_SPLITS", message, field=f"samples[{sample.key}].split")
        limit = self._limits.message_bytes - ENVELOPE_BYTES
        if surely_fits(sample, num_bytes(sample), limit):
            return sample
        if (sent := message_bytes(sample, self._fields)) > limit:
            message = (
                f"samples[{sample.key}] needs {sent} bytes in a ReadSamples message; at most {limit} fit. Make the "
                "sample smaller, split it into several, or raise `max_message_bytes` in the settings of ingest"
            )
            raise InvalidArgument("TOO_LARGE", message, field=f"samples[{sample.key}]")
        return sample

    def _quarantined(self, rejected: Rejected) -> Sample:
        """Returns the row of the quarantine for an invalid sample, unless the quarantine is full."""
        if self._num_quarantined >= MAX_QUARANTINED:
            remedy = "Check the schema and the source, then start another upload"
            message = f"{MAX_QUARANTINED} samples are invalid, and so is this one: {rejected.message}. {remedy}"
            raise FailedPrecondition("QUARANTINE_FULL", message, field="upload")
        self._num_quarantined += 1
        return to_row(replace(rejected, position=self._num_durable + len(self._buffer) + 1))

    def _quarantined_duplicate(self, sample: Sample, position: int) -> Sample:
        self._splits.setdefault(QUARANTINE_SPLIT, Split())
        self._num_quarantined += 1
        return to_row(replace(ReceivedSample.of(sample).rejected(_duplicate(sample)), position=position))

    def _make_durable(self, samples: Sequence[Sample]) -> None:
        by_split: dict[str, list[Sample]] = {}
        for sample in samples:
            by_split.setdefault(sample.split, []).append(sample)
        growths = {name: self._cut(name, added) for name, added in by_split.items()}
        chunks = {
            name: encode_shard(growth.tail, self._fields_of(name)) for name, growth in growths.items() if growth.tail
        }
        splits = {name: self._grown(name, growth) for name, growth in growths.items()}
        with self._database.transaction() as session:
            upload = self._upload(session)
            owner = {"tenant": upload.tenant, "upload_id": upload.upload_id}
            for name, growth in growths.items():
                before = self._splits[name]
                if growth.shards:
                    session.execute(delete(ChunkRow).where(*of_upload(ChunkRow, upload), ChunkRow.split == name))
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
            accepted = [sample for sample in samples if _is_accepted(sample)]
            if accepted:
                session.execute(insert(KeyRow), [{**owner, "key": sample.key} for sample in accepted])
            upload.num_samples += len(accepted)
            upload.num_quarantined += len(samples) - len(accepted)
            upload.update_us = now_us()
        self._num_durable += len(samples)
        for split in self._splits.values():
            split.num_buffered = split.buffered_bytes = 0
        self._splits.update(splits)

    def _cut(self, name: str, added: Sequence[Sample]) -> _Growth:
        """Divides the chunks' samples, followed by `added`, into full shards and a remainder, and stores the shards."""
        split, growth = self._splits[name], _Growth()
        num_samples, size = split.num_staged, split.staged_bytes
        for sample in added:
            growth.tail.append(sample)
            num_samples, size = num_samples + 1, size + num_bytes(sample)
            if fills_shard(num_samples, size):
                staged = self._staged(name) if num_samples > len(growth.tail) else []
                data = encode_shard([*staged, *growth.tail], self._fields_of(name))
                growth.shards.append((self._store.put(self._tenant, data, SHARD_MEDIA_TYPE), num_samples))
                growth.tail, num_samples, size = [], 0, 0
        return growth

    def _grown(self, name: str, growth: _Growth) -> Split:
        split, tail_bytes = self._splits[name], sum(map(num_bytes, growth.tail))
        if growth.shards:
            return Split(split.num_shards + len(growth.shards), len(growth.tail), tail_bytes)
        return Split(split.num_shards, split.num_staged + len(growth.tail), split.staged_bytes + tail_bytes)

    def _fields_of(self, split: str) -> tuple[Field, ...]:
        return QUARANTINE_FIELDS if split == QUARANTINE_SPLIT else self._fields

    def _staged(self, name: str) -> list[Sample]:
        with self._database.snapshot() as session:
            return list(staged_samples(session, self._upload(session), name))

    def _upload(self, session: Session) -> UploadRow:
        """Returns the upload's row. Fails if a newer stream, a commit or a deletion has replaced this writer."""
        upload = session.get(UploadRow, (self._tenant, self._upload_id))
        assert upload is not None, "rows of uploads are never deleted"
        if upload.writer == self._token:
            return upload
        if upload.deleted or upload.commit_job:
            message = f"uploads/{self._upload_id} has been committed or deleted"
            raise FailedPrecondition("UPLOAD_CLOSED", message, field="upload")
        message = (
            f"a newer stream has taken over uploads/{self._upload_id}; only one stream at a time can write to an upload"
        )
        raise Aborted("UPLOAD_TAKEN_OVER", message, field="upload")


def _is_accepted(sample: Sample) -> bool:
    return sample.split != QUARANTINE_SPLIT


def _duplicate(sample: Sample) -> AlreadyExists:
    message = f"the upload already has a sample with the key {sample.key!r}; keys are unique within an upload"
    return AlreadyExists("DUPLICATE_KEY", message, field=f"samples[{sample.key}].key")
