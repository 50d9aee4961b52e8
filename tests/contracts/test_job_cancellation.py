"""Cancelling jobs that wait, run or have ended, over SQLite and a real PostgreSQL."""

import threading

import pytest
from sqlalchemy.orm import Session

from common.database import Database
from common.errors import Cancelled, InvalidArgument
from common.jobs import Job, JobState, JobStore, Lease
from tests.contracts.jobs import (
    TENANT,
    claim,
    publish,
    published,
    started_runner,
    submit,
    submit_and_claim,
    wait_for_end,
)

FINAL = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database)


def test_cancelling_a_job_that_waits_ends_it_at_once(database: Database, store: JobStore) -> None:
    job = store.cancel(TENANT, submit(database).name)

    assert job.state is JobState.CANCELLED
    assert job.end_us is not None
    assert store.claim("me", ["work"], 1) is None
    assert store.cancel(TENANT, job.name) == job


def test_a_job_outside_the_mesh_needs_no_room_and_ends_at_once(database: Database) -> None:
    store = JobStore(database, max_per_tenant=1)

    def start() -> Job:
        with database.transaction() as session:
            return store.submit(session, tenant=TENANT, kind="outside", spec="", external=True)

    jobs = [start() for _ in range(3)]
    assert [(job.state, job.start_us) for job in jobs] == [(JobState.RUNNING, job.create_us) for job in jobs]
    with database.transaction() as session:
        store.submit(session, tenant=TENANT, kind="work", spec="")
    start()

    ended = store.cancel(TENANT, jobs[0].name)

    assert ended.state is JobState.CANCELLED
    assert ended.end_us is not None
    assert store.cancel(TENANT, ended.name) == ended


@pytest.mark.parametrize("raises", [True, False])
def test_cancelling_a_job_that_runs_asks_its_handler(database: Database, store: JobStore, raises: bool) -> None:
    started = threading.Event()

    def work(lease: Lease) -> None:
        started.set()
        assert lease.cancelled.wait(10)
        if raises:
            raise Cancelled("JOB_CANCELLED", "stopped as asked")

    with started_runner(store, work):
        job = submit(database)
        assert started.wait(10)
        assert store.cancel(TENANT, job.name).state is JobState.CANCELLING
        assert store.cancel(TENANT, job.name).state is JobState.CANCELLING
        job = wait_for_end(store, job)

    assert (job.state, job.error) == (JobState.CANCELLED, None)


def test_a_handler_learns_of_cancelling_from_its_own_writes(database: Database, store: JobStore) -> None:
    lease = submit_and_claim(database, store)
    store.cancel(TENANT, lease.job.name)
    assert not lease.cancelled.is_set()

    lease.update(progress=0.5)

    assert lease.cancelled.is_set()
    lease.mark_cancelled(_clean_up)
    assert published(database) == ["cleaned up"]


def _clean_up(session: Session) -> None:
    publish(session, "cleaned up")


def test_a_job_whose_worker_died_while_cancelling_is_wound_up_by_another(database: Database, store: JobStore) -> None:
    job = submit(database)
    claim(store, lease_s=0.1)
    store.cancel(TENANT, job.name)
    seen = []

    def work(lease: Lease) -> None:
        seen.append((lease.attempt, lease.cancelled.is_set()))

    with started_runner(store, work):
        job = wait_for_end(store, job)

    assert job.state is JobState.CANCELLED
    assert seen == [(2, True)]


@pytest.mark.parametrize("state", FINAL)
def test_cancelling_a_finished_job_changes_nothing(database: Database, store: JobStore, state: JobState) -> None:
    lease = submit_and_claim(database, store)
    if state is JobState.SUCCEEDED:
        lease.complete(lambda session: "results/1")
    elif state is JobState.FAILED:
        lease.fail(InvalidArgument("WRONG", "wrong"))
    else:
        lease.mark_cancelled()
    job = store.get(TENANT, lease.job.name)

    assert job.state is state
    assert store.cancel(TENANT, job.name) == job
    assert store.get(TENANT, job.name) == job
