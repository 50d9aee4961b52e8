"""Opening, closing and dropping uploads."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import func, select, update

import services.ingest
from common.artifacts import open_store
from common.database import Database, PageRequest, Repeatable, now_us
from common.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from common.jobs import JobState, JobStore
from deepseek.data.manifest import Field
from services.ingest.samples import ReceivedSample
from services.ingest.tables import ChunkRow, KeyRow, ShardRow, UploadRow
from services.ingest.uploads import Uploads, UploadState
from tests.services.ingest.state import open_uploads

TENANT = "default"
FIELDS = (Field("answer", "label", True, ("ja", "nein", "über")), Field("number", "integer"))


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/ingest.db")
    database.migrate(Path(services.ingest.__file__).parent / "migrations")
    yield database
    database.close()


@pytest.fixture
def jobs(database: Database) -> JobStore:
    return JobStore(database)


@pytest.fixture
def uploads(database: Database, jobs: JobStore, tmp_path: Path) -> Uploads:
    return open_uploads(database, open_store(f"file://{tmp_path}/store"), jobs=jobs)


def create(uploads: Uploads, *, request_id: str = "", body: bytes = b"") -> str:
    return uploads.create(TENANT, "datasets/d", FIELDS, Repeatable("CreateUpload", request_id, body)).name


def add_one(uploads: Uploads, name: str, *, offset: int = 0) -> None:
    with uploads.write(TENANT, name, offset=offset) as writer:
        writer.add([ReceivedSample(f"k{offset}", "train", [("answer", ["ja"]), ("number", [1])])])


def commit(uploads: Uploads, name: str) -> str:
    return uploads.commit(TENANT, name, Repeatable("CommitUpload")).name


def test_a_new_upload_is_open_and_empty_and_keeps_its_schema(uploads: Uploads) -> None:
    upload = uploads.get(TENANT, create(uploads))
    assert (upload.dataset, upload.fields, upload.num_samples) == ("datasets/d", FIELDS, 0)
    assert upload.state is UploadState.OPEN


def test_another_tenant_sees_nothing(uploads: Uploads) -> None:
    name = create(uploads)
    with pytest.raises(NotFound) as caught:
        uploads.get("other", name)
    assert caught.value.reason == "UPLOAD_NOT_FOUND"


def test_a_request_id_creates_one_upload(uploads: Uploads) -> None:
    assert create(uploads, request_id="r") == create(uploads, request_id="r")
    with pytest.raises(AlreadyExists) as caught:
        create(uploads, request_id="r", body=b"another")
    assert (caught.value.reason, caught.value.field) == ("REQUEST_ID_REUSED", "request_id")


@pytest.mark.parametrize("dataset", ["", "d", "datasets/", "datasets/d/versions/1", "datasets/D!", "models/d"])
def test_the_name_of_the_dataset_is_checked_at_once(uploads: Uploads, dataset: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        uploads.create(TENANT, dataset, FIELDS, Repeatable("CreateUpload"))
    assert (caught.value.reason, caught.value.field) == ("BAD_NAME", "dataset")


def test_a_committed_upload_takes_no_more_samples_and_is_not_dropped(uploads: Uploads) -> None:
    name = create(uploads)
    add_one(uploads, name)
    commit(uploads, name)
    assert uploads.get(TENANT, name).state is UploadState.COMMITTED
    with pytest.raises(FailedPrecondition, match="committed"):
        uploads.write(TENANT, name, offset=1)
    with pytest.raises(FailedPrecondition, match="committed"):
        uploads.delete(TENANT, name)


def test_committing_again_answers_with_the_same_job(uploads: Uploads) -> None:
    name = create(uploads)
    add_one(uploads, name)
    assert commit(uploads, name) == commit(uploads, name)


def test_an_empty_upload_is_not_committed_and_stays_open(uploads: Uploads) -> None:
    name = create(uploads)
    with pytest.raises(FailedPrecondition) as caught:
        commit(uploads, name)
    assert (caught.value.reason, caught.value.field) == ("EMPTY_UPLOAD", "name")
    add_one(uploads, name)


def test_a_cancelled_commit_leaves_the_upload_open_for_more(uploads: Uploads, jobs: JobStore) -> None:
    name = create(uploads)
    add_one(uploads, name)
    cancelled = commit(uploads, name)
    jobs.cancel(TENANT, cancelled)
    assert uploads.get(TENANT, name).state is UploadState.OPEN
    add_one(uploads, name, offset=1)
    assert commit(uploads, name) != cancelled
    assert uploads.get(TENANT, name).state is UploadState.COMMITTED


def test_after_a_cancelled_commit_the_upload_can_be_dropped(uploads: Uploads, jobs: JobStore) -> None:
    name = create(uploads)
    add_one(uploads, name)
    jobs.cancel(TENANT, commit(uploads, name))
    uploads.delete(TENANT, name)
    assert uploads.get(TENANT, name).state is UploadState.DELETED


def test_dropping_is_idempotent_and_final(uploads: Uploads) -> None:
    name = create(uploads)
    add_one(uploads, name)
    uploads.delete(TENANT, name)
    uploads.delete(TENANT, name)
    assert uploads.get(TENANT, name).state is UploadState.DELETED
    with pytest.raises(FailedPrecondition, match="deleted"):
        uploads.write(TENANT, name, offset=1)
    with pytest.raises(FailedPrecondition, match="deleted"):
        commit(uploads, name)


DAY_US = 24 * 3600 * 1_000_000


def listed(uploads: Uploads, *, size: int = 0) -> list[str]:
    """Names of every listed upload, page by page."""
    names: list[str] = []
    token = ""
    while True:
        page, token = uploads.list(TENANT, PageRequest(size, token))
        assert len(page) <= (size or 50)
        names += [upload.name for upload in page]
        if not token:
            return names


def age(database: Database, name: str, days: int) -> None:
    """Makes an upload look as if it had been written to for the last time so many days ago."""
    with database.transaction() as session:
        session.execute(
            update(UploadRow)
            .where(UploadRow.upload_id == name.removeprefix("uploads/"))
            .values(update_us=now_us() - days * DAY_US)
        )


def num_sample_rows(database: Database) -> int:
    with database.snapshot() as session:
        counts = [session.scalar(select(func.count()).select_from(table)) for table in (KeyRow, ChunkRow, ShardRow)]
    return sum(count or 0 for count in counts)


def test_open_uploads_are_listed_newest_first_in_pages(uploads: Uploads) -> None:
    names = [create(uploads) for _ in range(5)]
    assert listed(uploads) == listed(uploads, size=2) == names[::-1]
    assert uploads.list("other", PageRequest()) == ([], "")
    with pytest.raises(InvalidArgument) as caught:
        uploads.list(TENANT, PageRequest(0, "x"))
    assert (caught.value.reason, caught.value.field) == ("BAD_PAGE_TOKEN", "page_token")


def test_only_uploads_that_take_samples_are_listed(uploads: Uploads, jobs: JobStore) -> None:
    committed, cancelled, dropped = (create(uploads) for _ in range(3))
    for name in (committed, cancelled, dropped):
        add_one(uploads, name)
    commit(uploads, committed)
    job = commit(uploads, cancelled)
    uploads.delete(TENANT, dropped)
    assert listed(uploads) == []
    jobs.cancel(TENANT, job)
    assert listed(uploads) == [cancelled]


def test_an_upload_that_nobody_writes_to_is_dropped_with_its_samples(uploads: Uploads, database: Database) -> None:
    left_behind = create(uploads)
    add_one(uploads, left_behind)
    age(database, left_behind, days=8)
    assert uploads.expire(9 * DAY_US) == []
    assert num_sample_rows(database) == 2
    assert uploads.expire(7 * DAY_US) == [left_behind]
    assert num_sample_rows(database) == 0
    assert uploads.get(TENANT, left_behind).state is UploadState.DELETED
    assert uploads.expire(0) == []


def test_an_old_upload_stays_as_long_as_somebody_writes_to_it(uploads: Uploads, database: Database) -> None:
    name = create(uploads)
    with uploads.write(TENANT, name, offset=0) as writer:
        age(database, name, days=8)
        writer.add([ReceivedSample("k", "train", [("answer", ["ja"]), ("number", [1])])])
    assert uploads.expire(7 * DAY_US) == []
    age(database, name, days=8)
    uploads.write(TENANT, name, offset=1)
    assert uploads.expire(7 * DAY_US) == []


def test_a_commit_that_is_under_way_does_not_expire_and_one_that_failed_counts_from_its_end(
    uploads: Uploads, jobs: JobStore, database: Database
) -> None:
    name = create(uploads)
    add_one(uploads, name)
    job = commit(uploads, name)
    age(database, name, days=8)
    assert uploads.expire(7 * DAY_US) == []
    jobs.cancel(TENANT, job)
    assert uploads.expire(7 * DAY_US) == []
    assert uploads.expire(0) == [name]


def test_a_stream_whose_upload_has_expired_is_told_so(uploads: Uploads, database: Database) -> None:
    name = create(uploads)
    writer = uploads.write(TENANT, name, offset=0)
    age(database, name, days=8)
    assert uploads.expire(7 * DAY_US) == [name]
    writer.add([ReceivedSample("k", "train", [("answer", ["ja"]), ("number", [1])])])
    with pytest.raises(FailedPrecondition) as caught:
        writer.flush()
    assert (caught.value.reason, caught.value.field) == ("UPLOAD_CLOSED", "upload")


def test_what_cannot_be_recorded_is_not_dropped(uploads: Uploads, database: Database) -> None:
    names = [create(uploads) for _ in range(2)]
    for name in names:
        age(database, name, days=8)

    def refuse(tenant: str, name: str) -> None:
        raise ResourceExhausted("DISK_FULL", "the disk is full")

    with pytest.raises(ResourceExhausted):
        uploads.expire(7 * DAY_US, refuse)
    assert [uploads.get(TENANT, name).state for name in names] == [UploadState.OPEN] * 2

    recorded: list[tuple[str, str]] = []
    dropped = uploads.expire(7 * DAY_US, lambda tenant, name: recorded.append((tenant, name)))
    assert sorted(dropped) == sorted(names)
    assert recorded == [(TENANT, name) for name in dropped]


def test_a_tenant_commits_no_more_uploads_at_once_than_it_may(database: Database, tmp_path: Path) -> None:
    jobs = JobStore(database, max_per_tenant=1)
    uploads = open_uploads(database, open_store(f"file://{tmp_path}/store"), jobs=jobs)
    first, second = create(uploads), create(uploads)
    for name in (first, second):
        add_one(uploads, name)
    job = uploads.commit(TENANT, first, Repeatable("CommitUpload", "one", b"1"))

    with pytest.raises(ResourceExhausted) as caught:
        uploads.commit(TENANT, second, Repeatable("CommitUpload", "two", b"2"))
    assert (caught.value.reason, uploads.get(TENANT, second).state) == ("QUOTA_EXCEEDED", UploadState.OPEN)
    # What was accepted before is answered as ever.
    assert uploads.commit(TENANT, first, Repeatable("CommitUpload", "one", b"1")) == job
    assert uploads.commit(TENANT, first, Repeatable("CommitUpload")) == job

    jobs.cancel(TENANT, job.name)
    assert uploads.commit(TENANT, second, Repeatable("CommitUpload", "two", b"2")).state is JobState.PENDING
