"""Uploads: what a client opens, fills, and commits or drops.

An upload is closed by its commit as soon as that is accepted, so that the job sees samples which no longer change. If
the job fails or is cancelled, nothing was published and the upload is open again; that follows from the job's state,
which is final by then, so no clean-up can be forgotten by a crash. How samples become durable is `writer.py`; what the
job does is `commit.py`.
"""

import enum
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, and_, delete, exists, func, not_, or_, select, tuple_
from sqlalchemy.orm import Session, defer

from common.artifacts import ArtifactStore
from common.database import Database, decode_page_token, encode_page_token, now_us, once, page_size
from common.errors import FailedPrecondition, InvalidArgument, NotFound
from common.jobs import Job, JobState, JobStore
from common.jobs.job import JobRow
from common.names import new_id, parse
from deepseek.data.manifest import Field, check_schema
from services.ingest.tables import ChunkRow, KeyRow, ShardRow, UploadRow, schema_text
from services.ingest.writer import Limits, Writer

COMMIT_KIND = "ingest.commit"
_FAILED = (JobState.FAILED, JobState.CANCELLED)
_ALWAYS_US = (1 << 63) - 1


class UploadState(enum.Enum):
    """Where an upload stands."""

    OPEN = "open"
    COMMITTED = "committed"
    DELETED = "deleted"


@dataclass(frozen=True)
class Upload:
    """A collection of samples that are not a data set version yet.

    Attributes:
        name: `uploads/<id>`.
        dataset: `datasets/<id>` that its commit adds a version to.
        fields: The schema; empty in lists, as schemas may be large.
        num_samples: How many samples are durable.
        state: COMMITTED from the moment a commit was accepted, unless that failed.
        create_us: UTC microseconds.
        update_us: When it was last written to, UTC microseconds.
    """

    name: str
    dataset: str
    fields: tuple[Field, ...]
    num_samples: int
    state: UploadState
    create_us: int
    update_us: int


class Uploads:
    """Opens, shows, fills, commits and drops uploads. Thread-safe.

    Args:
        database: Ingest's state.
        store: Where shards go.
        jobs: Ingest's jobs.
        wake: Called once a job has been submitted.
        limits: How much uploads may hold.
    """

    def __init__(
        self,
        database: Database,
        store: ArtifactStore,
        jobs: JobStore,
        wake: Callable[[], None],
        limits: Limits = Limits(),  # noqa: B008  it is frozen
    ) -> None:
        self._limits = limits
        self._database = database
        self._store = store
        self._jobs = jobs
        self._wake = wake

    def create(self, tenant: str, dataset: str, fields: Sequence[Field], *, request_id: str, body: bytes) -> Upload:
        """Opens an upload.

        Args:
            tenant: Whose it is.
            dataset: `datasets/<id>`.
            fields: The schema.
            request_id: Makes the call idempotent; empty if it need not be.
            body: The request, to tell a repetition from another request with this id.

        Raises:
            InvalidArgument: BAD_NAME, BAD_SCHEMA.
            AlreadyExists: REQUEST_ID_REUSED.
        """
        parse(dataset, "datasets/{}", field="dataset")
        check_schema(fields)

        def effect() -> str:
            upload_id, now = new_id(), now_us()
            session.add(
                UploadRow(
                    tenant=tenant,
                    upload_id=upload_id,
                    dataset=dataset,
                    schema=schema_text(fields),
                    num_samples=0,
                    writer=0,
                    deleted=False,
                    commit_job="",
                    registering_job="",
                    manifest="",
                    create_us=now,
                    update_us=now,
                )
            )
            return f"uploads/{upload_id}"

        with self._database.transaction() as session:
            name = once(session, tenant=tenant, method="CreateUpload", request_id=request_id, body=body, effect=effect)
        return self.get(tenant, name)

    def get(self, tenant: str, name: str) -> Upload:
        """Returns an upload.

        Raises:
            NotFound: UPLOAD_NOT_FOUND.
        """
        with self._database.snapshot() as session:
            row = _load(session, tenant, name)
            commit_job, deleted = row.commit_job, row.deleted
            upload = _upload(row, row.fields())
        if deleted:
            return replace(upload, state=UploadState.DELETED)
        if commit_job and not self._has_failed(tenant, commit_job):
            return replace(upload, state=UploadState.COMMITTED)
        return upload

    def list(self, tenant: str, *, size: int, token: str) -> tuple[Sequence[Upload], str]:
        """A page of the open uploads, newest first, and the next page's token.

        Raises:
            InvalidArgument: BAD_PAGE_TOKEN, BAD_VALUE.
        """
        limit = page_size(size)
        query = select(UploadRow).options(defer(UploadRow.schema)).where(UploadRow.tenant == tenant, _is_open())
        if key := decode_page_token(token, (int, str)):
            query = query.where(tuple_(UploadRow.create_us, UploadRow.upload_id) < tuple_(*key))
        query = query.order_by(UploadRow.create_us.desc(), UploadRow.upload_id.desc()).limit(limit + 1)
        with self._database.snapshot() as session:
            rows = session.scalars(query).all()
            uploads = [_upload(row, ()) for row in rows[:limit]]
        last = rows[limit - 1] if len(rows) > limit else None
        return uploads, encode_page_token((last.create_us, last.upload_id)) if last else ""

    def write(self, tenant: str, name: str, *, offset: int) -> Writer:
        """Makes the caller the one that writes an upload; a stream that did so before fails from now on.

        Args:
            tenant: Whose it is.
            name: `uploads/<id>`.
            offset: How many durable samples the caller skips.

        Raises:
            NotFound: UPLOAD_NOT_FOUND.
            FailedPrecondition: UPLOAD_CLOSED.
            InvalidArgument: OFFSET_MISMATCH if that is not the number of durable samples.
        """
        failed_commit = self._failed_commit(tenant, name)
        with self._database.transaction() as session:
            row = _load_open(session, tenant, name, failed_commit)
            if offset != row.num_samples:
                message = f"{name} has {row.num_samples} durable samples; go on with offset {row.num_samples}"
                raise InvalidArgument("OFFSET_MISMATCH", message, field="offset")
            row.writer += 1
            row.update_us = now_us()
            return Writer(self._database, self._store, row, session, self._limits)

    def commit(self, tenant: str, name: str, *, request_id: str, body: bytes) -> Job:
        """Closes an upload and starts the job that makes it a data set version.

        An upload whose commit is under way or done answers with that job.

        Args:
            tenant: Whose it is.
            name: `uploads/<id>`.
            request_id: As in `create`.
            body: As in `create`.

        Raises:
            NotFound: UPLOAD_NOT_FOUND.
            FailedPrecondition: UPLOAD_CLOSED if it was deleted; EMPTY_UPLOAD.
            AlreadyExists: REQUEST_ID_REUSED.
            ResourceExhausted: QUOTA_EXCEEDED; the upload stays open.
        """
        failed_commit = self._failed_commit(tenant, name)

        def effect() -> str:
            row = _load(session, tenant, name)
            if not row.deleted and row.commit_job not in ("", failed_commit):
                return row.commit_job
            _load_open(session, tenant, name, failed_commit)
            if not row.num_samples:
                raise FailedPrecondition("EMPTY_UPLOAD", f"{name} has no samples; upload some first", field="name")
            job = self._jobs.submit(
                session, tenant=tenant, kind=COMMIT_KIND, spec=json.dumps({"upload_id": row.upload_id})
            )
            row.commit_job = job.name
            row.writer += 1
            row.update_us = now_us()
            return job.name

        with self._database.transaction() as session:
            job_name = once(
                session, tenant=tenant, method="CommitUpload", request_id=request_id, body=body, effect=effect
            )
        self._wake()
        return self._jobs.get(tenant, job_name)

    def delete(self, tenant: str, name: str) -> None:
        """Drops an upload; what it put into the store is left to the garbage collection. Idempotent.

        Raises:
            NotFound: UPLOAD_NOT_FOUND.
            FailedPrecondition: UPLOAD_CLOSED if its commit has begun or is done.
        """
        failed_commit = self._failed_commit(tenant, name)
        with self._database.transaction() as session:
            if _load(session, tenant, name).deleted:
                return
            _drop(session, _load_open(session, tenant, name, failed_commit))

    def expire(self, idle_us: int, record: Callable[[str, str], None] = lambda tenant, name: None) -> Sequence[str]:
        """Drops, as `delete` does, every tenant's open uploads that nobody has written to.

        Args:
            idle_us: For how long, microseconds; since the end of its last commit, if that failed.
            record: Told the tenant and the name of each before that is final; it stays if this raises.

        Returns:
            Names of the uploads that were dropped.

        Raises:
            MeshError: As `record`.
        """
        before_us, dropped = now_us() - idle_us, []
        idle = and_(_is_open(before_us), UploadRow.update_us < before_us)
        with self._database.snapshot() as session:
            found = session.execute(select(UploadRow.tenant, UploadRow.upload_id).where(idle)).all()
        for tenant, upload_id in found:
            with self._database.transaction() as session:
                # Somebody may have written to it meanwhile.
                row = session.scalar(
                    select(UploadRow).where(idle, UploadRow.tenant == tenant, UploadRow.upload_id == upload_id)
                )
                if row is not None:
                    _drop(session, row)
                    record(tenant, f"uploads/{upload_id}")
                    dropped.append(f"uploads/{upload_id}")
        return dropped

    def _failed_commit(self, tenant: str, name: str) -> str:
        """The upload's last commit if it ended without a result; such a job never changes again."""
        with self._database.snapshot() as session:
            job_name = _load(session, tenant, name).commit_job
        return job_name if job_name and self._has_failed(tenant, job_name) else ""

    def _has_failed(self, tenant: str, job_name: str) -> bool:
        return self._jobs.get(tenant, job_name).state in _FAILED


def discard_samples(session: Session, upload: UploadRow) -> None:
    """Deletes every row of an upload's samples."""
    for table in (KeyRow, ChunkRow, ShardRow):
        session.execute(delete(table).where(table.tenant == upload.tenant, table.upload_id == upload.upload_id))


def _upload(row: UploadRow, fields: tuple[Field, ...]) -> Upload:
    name = f"uploads/{row.upload_id}"
    return Upload(name, row.dataset, fields, row.num_samples, UploadState.OPEN, row.create_us, row.update_us)


def _is_open(before_us: int = _ALWAYS_US) -> ColumnElement[bool]:
    """Uploads that take samples: not dropped, and not committed or by a job that failed before this time."""
    failed = exists().where(
        JobRow.job_id == func.substr(UploadRow.commit_job, len("jobs/") + 1),
        JobRow.state.in_([state.value for state in _FAILED]),
        JobRow.end_us < before_us,
    )
    return and_(not_(UploadRow.deleted), or_(UploadRow.commit_job == "", failed))


def _drop(session: Session, row: UploadRow) -> None:
    row.deleted = True
    row.writer += 1
    discard_samples(session, row)


def _load(session: Session, tenant: str, name: str) -> UploadRow:
    (upload_id,) = parse(name, "uploads/{}", field="name")
    row = session.get(UploadRow, (tenant, upload_id))
    if row is None:
        raise NotFound("UPLOAD_NOT_FOUND", f"{name!r} does not exist; CreateUpload makes one", field="name")
    return row


def _load_open(session: Session, tenant: str, name: str, failed_commit: str) -> UploadRow:
    """The row of an upload that takes samples; forgets a commit that failed."""
    row = _load(session, tenant, name)
    if row.deleted:
        raise FailedPrecondition("UPLOAD_CLOSED", f"{name} was deleted", field="name")
    if row.commit_job not in ("", failed_commit):
        raise FailedPrecondition("UPLOAD_CLOSED", f"{name} was committed; open another upload", field="name")
    row.commit_job = ""
    return row
