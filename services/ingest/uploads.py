"""Uploads, which clients open, fill, and commit or delete.

An upload is closed as soon as a commit is accepted, so that its samples do not change while the commit job runs. If the
job fails or is cancelled, no version is published and the upload is open again. Whether an upload is open is not stored
but derived from the job's state, so a crash does no harm. Samples are made durable in `writer`; the job is in
`commit_job`.
"""

import enum
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from sqlalchemy import ColumnElement, and_, exists, func, not_, or_, select
from sqlalchemy.orm import Session, defer

from common.artifacts import ArtifactStore
from common.database import Database, PageRequest, Repeatable, fetch_page, now_us, once
from common.errors import FailedPrecondition, InvalidArgument, NotFound
from common.jobs import Job, JobState, JobStore
from common.jobs.job import JobRow
from common.names import new_id, parse
from common.sources import check_sources
from deepseek.data.manifest import Field, check_schema
from services.ingest import commit_job
from services.ingest.checks import Checks
from services.ingest.ports import Registry
from services.ingest.stored import discard_samples
from services.ingest.tables import UploadRow, schema_text
from services.ingest.writer import Limits, Writer

_FAILED = (JobState.FAILED, JobState.CANCELLED)
_ALWAYS_US = (1 << 63) - 1


class UploadState(enum.Enum):
    """State of an upload."""

    OPEN = "open"
    COMMITTED = "committed"
    DELETED = "deleted"


@dataclass(frozen=True)
class Upload:
    """A collection of samples that a commit turns into a data set version.

    Attributes:
        name: `uploads/<id>`.
        dataset: `datasets/<id>`, the data set to which a commit adds a version.
        fields: Schema; left empty in lists of uploads, because schemas may be large.
        num_samples: Number of durable samples.
        num_quarantined: Number of durable samples in the quarantine.
        state: COMMITTED from the time a commit is accepted; OPEN again if that commit fails.
        create_us: Creation time, UTC microseconds.
        update_us: See `UploadRow.update_us`.
    """

    name: str
    dataset: str
    fields: tuple[Field, ...]
    num_samples: int
    num_quarantined: int
    state: UploadState
    create_us: int
    update_us: int


class Uploads:
    """The uploads of all tenants. Thread-safe.

    Args:
        database: Database of ingest.
        store: Store of the shards.
        jobs: Job store of ingest.
        registry: Registry, which knows whether the sources of an upload exist.
        wake: Function to call after a job has been submitted.
        checks: Checks of samples, which all uploads share.
        limits: Maximum sizes.
    """

    def __init__(
        self,
        database: Database,
        store: ArtifactStore,
        jobs: JobStore,
        registry: Registry,
        wake: Callable[[], None],
        checks: Checks,
        limits: Limits = Limits(),  # noqa: B008  it is frozen
    ) -> None:
        self._limits = limits
        self._registry = registry
        self._checks = checks
        self._database = database
        self._store = store
        self._jobs = jobs
        self._wake = wake

    def create(
        self,
        tenant: str,
        dataset: str,
        fields: Sequence[Field],
        call: Repeatable,
        *,
        quarantine: bool = False,
        sources: Sequence[str] = (),
    ) -> Upload:
        """Opens an upload.

        Args:
            tenant: Tenant that will own the upload.
            dataset: `datasets/<id>`.
            fields: Schema.
            call: Identity of the call, used to recognize repeats.
            quarantine: Whether to keep invalid samples aside instead of rejecting them.
            sources: Names of the resources that the version is made from.

        Raises:
            InvalidArgument: BAD_NAME, BAD_SCHEMA, TOO_LARGE.
            NotFound: A source in the registry does not exist.
            AlreadyExists: REQUEST_ID_REUSED.
            Unavailable, DeadlineExceeded: There are sources, and the registry does not respond.
        """
        parse(dataset, "datasets/{}", field="dataset")
        check_schema(fields)
        check_sources(sources)
        for index, source in enumerate(sources):
            self._registry.check_source(tenant, source, field=f"sources[{index}]")

        def effect() -> str:
            upload_id, now = new_id(), now_us()
            session.add(
                UploadRow(
                    tenant=tenant,
                    upload_id=upload_id,
                    dataset=dataset,
                    schema=schema_text(fields),
                    num_samples=0,
                    num_quarantined=0,
                    quarantine=quarantine,
                    sources=json.dumps(list(sources)),
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
            name = once(session, tenant, call, effect)
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

    def list(self, tenant: str, page: PageRequest) -> tuple[Sequence[Upload], str]:
        """Returns a page of the open uploads, newest first, and the token of the next page.

        Raises:
            InvalidArgument: BAD_PAGE_TOKEN, BAD_VALUE.
        """
        query = select(UploadRow).options(defer(UploadRow.schema)).where(UploadRow.tenant == tenant, _is_open())
        with self._database.snapshot() as session:
            rows, token = fetch_page(session, query, (UploadRow.create_us, UploadRow.upload_id), page, descending=True)
            return [_upload(row, ()) for row in rows], token

    def write(self, tenant: str, name: str, *, offset: int) -> Writer:
        """Makes the caller the only writer of an upload. The previous writer can no longer write to the upload.

        Args:
            tenant: Tenant that owns the upload.
            name: `uploads/<id>`.
            offset: Number of samples, quarantined ones included, that the caller believes to be durable and will not
                send again.

        Raises:
            NotFound: UPLOAD_NOT_FOUND.
            FailedPrecondition: UPLOAD_CLOSED.
            InvalidArgument: OFFSET_MISMATCH if `offset` is not the number of durable samples.
        """
        failed_commit = self._failed_commit(tenant, name)
        with self._database.transaction() as session:
            row = _load_open(session, tenant, name, failed_commit)
            if offset != (durable := row.num_samples + row.num_quarantined):
                message = f"{name} has {durable} durable samples; continue with offset {durable}"
                raise InvalidArgument("OFFSET_MISMATCH", message, field="offset")
            row.writer += 1
            row.update_us = now_us()
            return Writer(self._database, self._store, row, session, self._limits, self._checks)

    def commit(self, tenant: str, name: str, call: Repeatable) -> Job:
        """Closes an upload and starts the job that makes it a data set version.

        If a commit has already been accepted and has not failed, returns the job of that commit.

        Args:
            tenant: Tenant that owns the upload.
            name: `uploads/<id>`.
            call: See `create`.

        Raises:
            NotFound: UPLOAD_NOT_FOUND.
            FailedPrecondition: UPLOAD_CLOSED if the upload was deleted; EMPTY_UPLOAD.
            AlreadyExists: REQUEST_ID_REUSED.
            ResourceExhausted: QUOTA_EXCEEDED. The upload stays open.
        """
        failed_commit = self._failed_commit(tenant, name)

        def effect() -> str:
            row = _load(session, tenant, name)
            if not row.deleted and row.commit_job not in ("", failed_commit):
                return row.commit_job
            _load_open(session, tenant, name, failed_commit)
            if not row.num_samples:
                problem = "all of its samples are quarantined" if row.num_quarantined else "it has no samples"
                raise FailedPrecondition("EMPTY_UPLOAD", f"{name}: {problem}; upload valid ones first", field="name")
            job = self._jobs.submit(
                session, tenant=tenant, kind=commit_job.JOB_KIND, spec=commit_job.job_spec(row.upload_id)
            )
            row.commit_job = job.name
            row.writer += 1
            row.update_us = now_us()
            return job.name

        with self._database.transaction() as session:
            job_name = once(session, tenant, call, effect)
        self._wake()
        return self._jobs.get(tenant, job_name)

    def delete(self, tenant: str, name: str) -> None:
        """Deletes an upload. The upload's blobs are left to garbage collection. Idempotent.

        Raises:
            NotFound: UPLOAD_NOT_FOUND.
            FailedPrecondition: UPLOAD_CLOSED if the upload is being committed or has been committed.
        """
        failed_commit = self._failed_commit(tenant, name)
        with self._database.transaction() as session:
            if _load(session, tenant, name).deleted:
                return
            _drop(session, _load_open(session, tenant, name, failed_commit))

    def expire(self, idle_us: int, record: Callable[[str, str], None] = lambda tenant, name: None) -> Sequence[str]:
        """Deletes all tenants' open uploads that have not been written to for some time.

        Args:
            idle_us: Time that must have passed since the last write and, if the last commit failed, since the end of
                that commit, in microseconds.
            record: Function to call with an upload's tenant and name before the deletion of the upload takes effect. If
                the function raises an error, the upload is kept.

        Returns:
            Names of the deleted uploads.

        Raises:
            MeshError: An error that `record` raised.
        """
        before_us, dropped = now_us() - idle_us, []
        idle = and_(_is_open(before_us), UploadRow.update_us < before_us)
        with self._database.snapshot() as session:
            found = session.execute(select(UploadRow.tenant, UploadRow.upload_id).where(idle)).all()
        for tenant, upload_id in found:
            with self._database.transaction() as session:
                # The upload may have been written to since it was selected.
                row = session.scalar(
                    select(UploadRow).where(idle, UploadRow.tenant == tenant, UploadRow.upload_id == upload_id)
                )
                if row is not None:
                    _drop(session, row)
                    record(tenant, f"uploads/{upload_id}")
                    dropped.append(f"uploads/{upload_id}")
        return dropped

    def _failed_commit(self, tenant: str, name: str) -> str:
        """Returns the name of the last commit's job if that job failed or was cancelled; otherwise, an empty string."""
        with self._database.snapshot() as session:
            job_name = _load(session, tenant, name).commit_job
        return job_name if job_name and self._has_failed(tenant, job_name) else ""

    def _has_failed(self, tenant: str, job_name: str) -> bool:
        return self._jobs.get(tenant, job_name).state in _FAILED


def _upload(row: UploadRow, fields: tuple[Field, ...]) -> Upload:
    name, counts = f"uploads/{row.upload_id}", (row.num_samples, row.num_quarantined)
    return Upload(name, row.dataset, fields, *counts, UploadState.OPEN, row.create_us, row.update_us)


def _is_open(before_us: int = _ALWAYS_US) -> ColumnElement[bool]:
    """Selects the open uploads whose last commit, if there was one, failed before the given time."""
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
        raise NotFound(
            "UPLOAD_NOT_FOUND", f"the upload {name!r} does not exist; CreateUpload creates one", field="name"
        )
    return row


def _load_open(session: Session, tenant: str, name: str, failed_commit: str) -> UploadRow:
    """Returns the row of an open upload, and clears the row's failed commit if there is one."""
    row = _load(session, tenant, name)
    if row.deleted:
        raise FailedPrecondition("UPLOAD_CLOSED", f"{name} was deleted", field="name")
    if row.commit_job not in ("", failed_commit):
        raise FailedPrecondition("UPLOAD_CLOSED", f"{name} has been committed; open another upload", field="name")
    row.commit_job = ""
    return row
