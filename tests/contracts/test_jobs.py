"""Jobs over SQLite and a real PostgreSQL: submitting, finding, listing, counting and watching them."""

import threading

import pytest

from common.database import Database, PageRequest
from common.errors import InvalidArgument, NotFound
from common.jobs import JobState, JobStore
from tests.contracts.jobs import ENDLESS_S, TENANT, claim, submit, submit_and_claim


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database)


def test_a_new_job_waits(database: Database, store: JobStore) -> None:
    job = submit(database, spec='{"a": 1}')

    assert store.get(TENANT, job.name) == job
    assert (job.state, job.attempt, job.progress, job.start_us, job.end_us) == (JobState.PENDING, 0, 0.0, None, None)
    assert (job.kind, job.spec, job.tenant, job.error, job.result) == ("work", '{"a": 1}', TENANT, None, "")


def test_a_job_is_there_only_if_its_call_commits(database: Database, store: JobStore) -> None:
    def fail() -> None:
        with database.transaction() as session:
            store.submit(session, tenant=TENANT, kind="work", spec="")
            raise NotFound("GONE", "gone")

    with pytest.raises(NotFound):
        fail()

    assert store.list(TENANT, PageRequest()) == ([], "")
    assert store.claim("me", ["work"], 1) is None


def test_jobs_of_other_tenants_do_not_exist(database: Database, store: JobStore) -> None:
    job = submit(database, tenant="other")

    for call in (
        lambda: store.get(TENANT, job.name),
        lambda: store.cancel(TENANT, job.name),
        lambda: next(store.watch(TENANT, job.name)),
    ):
        with pytest.raises(NotFound) as caught:
            call()
        assert caught.value.reason == "JOB_NOT_FOUND"
    assert store.list(TENANT, PageRequest()) == ([], "")


@pytest.mark.parametrize("name", ["", "jobs/", "jobs/../x", "x", "runs/abc", "jobs/a/b", "jobs/a\0"])
def test_hostile_names_are_refused(store: JobStore, name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        store.get(TENANT, name)
    assert caught.value.reason == "BAD_NAME"


def test_jobs_are_listed_newest_first_in_pages(database: Database, store: JobStore) -> None:
    jobs = [submit(database, kind="even" if index % 2 == 0 else "odd") for index in range(7)]
    store.cancel(TENANT, jobs[0].name)

    pages, token = [], ""
    while True:
        page, token = store.list(TENANT, PageRequest(3, token))
        pages.append([job.name for job in page])
        if not token:
            break
        submit(database)  # what is new does not shift the pages

    assert pages == [[job.name for job in reversed(jobs)][start : start + 3] for start in (0, 3, 6)]
    odd, _ = store.list(TENANT, PageRequest(), kind="odd")
    assert [job.name for job in odd] == [jobs[index].name for index in (5, 3, 1)]
    cancelled, _ = store.list(TENANT, PageRequest(), state=JobState.CANCELLED)
    assert [job.name for job in cancelled] == [jobs[0].name]


def test_watching_shows_changes_and_ends_with_the_job(database: Database, store: JobStore) -> None:
    job = submit(database)
    watch = store.watch(TENANT, job.name)
    assert next(watch).state is JobState.PENDING
    lease = claim(store)
    assert next(watch).state is JobState.RUNNING
    lease.update(progress=0.25, message="a quarter")
    assert (seen := next(watch)).progress == 0.25
    assert seen.message == "a quarter"
    store.renew([lease], ENDLESS_S)
    store.cancel(TENANT, job.name)
    assert next(watch).state is JobState.CANCELLING
    lease.complete(lambda session: "results/1")

    assert [job.state for job in watch] == [JobState.SUCCEEDED]


def test_watching_ends_when_it_is_told_to(database: Database, store: JobStore) -> None:
    stop = threading.Event()
    watch = store.watch(TENANT, submit(database).name, stop=stop)
    next(watch)

    stop.set()

    assert list(watch) == []


def test_progress_stays_between_zero_and_one(database: Database, store: JobStore) -> None:
    lease = submit_and_claim(database, store)
    for progress, kept in ((-1.0, 0.0), (2.0, 1.0)):
        lease.update(progress=progress)
        assert store.get(TENANT, lease.job.name).progress == kept


def test_jobs_are_counted_by_kind_and_state(database: Database, store: JobStore) -> None:
    for _ in range(3):
        job = submit(database)
    store.cancel(TENANT, job.name)
    assert store.count() == {("work", "PENDING"): 2, ("work", "CANCELLED"): 1}
