"""Leases over SQLite and a real PostgreSQL: each job has one writer, and no job is lost."""

import contextlib
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy.orm import Session

from common.database import Database
from common.errors import DataLoss, InvalidArgument
from common.jobs import JobState, JobStore, Lease, LeaseLost
from tests.contracts.conftest import DatabasePlace
from tests.contracts.jobs import (
    ENDLESS_S,
    TENANT,
    claim,
    publish,
    publish_in_lease,
    published,
    started_runner,
    submit,
    wait_for_end,
)
from tests.harness.processes import wait_until

REPOSITORY = Path(__file__).parents[2]


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database)


@contextlib.contextmanager
def _worker(place: DatabasePlace, *action: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "tests.contracts.job_worker", place.url, place.schema, *action]
    with subprocess.Popen(command, cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.kill()


def _line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode().strip()


def _go(process: subprocess.Popen[bytes]) -> None:
    assert process.stdin is not None
    process.stdin.write(b"go\n")
    process.stdin.flush()


@pytest.mark.faults
def test_each_job_has_exactly_one_claimer(database_place: DatabasePlace, database: Database, store: JobStore) -> None:
    names = {submit(database).name for _ in range(40)}
    with contextlib.ExitStack() as stack:
        workers = [stack.enter_context(_worker(database_place, "claim", f"process-{index}")) for index in range(3)]
        for worker in workers:
            assert _line(worker) == "ready"
        for worker in workers:
            _go(worker)

        def claim_all(owner: str) -> list[str]:
            claimed = []
            while lease := store.claim(owner, ["work"], ENDLESS_S):
                claimed.append(lease.job.name)
            return claimed

        with ThreadPoolExecutor(3) as pool:
            claimed = [name for some in pool.map(claim_all, ["one", "two", "three"]) for name in some]
        for worker in workers:
            claimed += worker.communicate(timeout=60)[0].decode().split()

    assert Counter(claimed) == Counter(names)


def test_a_lease_that_ends_is_taken_over_with_a_higher_token(database: Database, store: JobStore) -> None:
    submit(database)
    first = claim(store, "first", lease_s=2.0)
    assert store.claim("second", ["work"], 1) is None

    wait_until(lambda: store.claim("second", ["work"], ENDLESS_S) is not None, "the end of the lease")

    job = store.get(TENANT, first.job.name)
    assert (job.state, job.attempt, job.start_us) == (JobState.RUNNING, 2, first.job.start_us)


def test_a_renewed_lease_is_not_taken_over(database: Database, store: JobStore) -> None:
    submit(database)
    lease = claim(store, lease_s=0.2)
    store.renew([lease], ENDLESS_S)

    lease.lost.wait(0.4)

    assert store.claim("second", ["work"], 1) is None
    lease.expire()
    assert not lease.lost.is_set()


def test_a_lease_that_nobody_renewed_knows_it_by_itself(database: Database, store: JobStore) -> None:
    submit(database)
    lease = claim(store, lease_s=0.1)

    threading.Event().wait(0.15)
    lease.expire()

    assert lease.lost.is_set()


def test_who_lost_the_lease_can_write_nothing(database: Database, store: JobStore) -> None:
    submit(database)
    first = claim(store, "first", lease_s=0.0)
    second = claim(store, "second")

    def write_midway() -> None:
        with first.transaction() as session:
            publish(session, "first")

    for call in (
        lambda: first.update(progress=0.9),
        write_midway,
        lambda: first.complete(lambda session: publish(session, "first")),
        lambda: first.fail(InvalidArgument("WRONG", "wrong")),
        first.mark_cancelled,
        first.release,
    ):
        first.lost.clear()
        with pytest.raises(LeaseLost):
            call()
        assert first.lost.is_set()
    first.lost.clear()
    store.renew([first, second], ENDLESS_S)
    assert first.lost.is_set()
    assert not second.lost.is_set()

    second.complete(lambda session: publish(session, "second"))
    assert published(database) == ["second"]
    assert store.get(TENANT, first.job.name).result == "results/second"


def test_a_finished_job_cannot_be_written_again_by_its_own_worker(database: Database, store: JobStore) -> None:
    submit(database)
    lease = claim(store)
    lease.complete(lambda session: publish(session, "once"))

    with pytest.raises(LeaseLost):
        lease.complete(lambda session: publish(session, "twice"))
    assert published(database) == ["once"]


def test_what_is_published_midway_is_fenced_and_all_or_nothing(database: Database, store: JobStore) -> None:
    submit(database)
    lease = claim(store)
    with lease.transaction() as session:
        publish(session, "checkpoint")

    def fail(session: Session) -> str:
        publish(session, "half")
        raise DataLoss("BLOB_DAMAGED", "damaged")

    with pytest.raises(DataLoss):
        lease.complete(fail)

    assert published(database) == ["checkpoint"]
    assert store.get(TENANT, lease.job.name).state is JobState.RUNNING


@pytest.mark.faults
def test_a_worker_that_was_paused_and_wakes_publishes_nothing(
    database_place: DatabasePlace, database: Database, store: JobStore
) -> None:
    job = submit(database)
    with _worker(database_place, "pause") as worker:
        assert _line(worker) == "claimed"
        worker.send_signal(signal.SIGSTOP)
        with started_runner(store, publish_in_lease):
            assert wait_for_end(store, job).attempt == 2
        _go(worker)
        worker.send_signal(signal.SIGCONT)
        assert _line(worker) == "lost"

    assert published(database) == ["attempt-2"]


@pytest.mark.faults
def test_a_job_of_a_killed_process_is_taken_up_again(
    database_place: DatabasePlace, database: Database, store: JobStore
) -> None:
    job = submit(database)
    with _worker(database_place, "hang") as worker:
        assert _line(worker) == "running 1"
        worker.kill()
        worker.wait(10)
        orphan = store.get(TENANT, job.name)
        assert (orphan.state, orphan.progress, orphan.message) == (JobState.RUNNING, 0.5, "half done")

        with started_runner(store, publish_in_lease):
            job = wait_for_end(store, job)

    assert (job.state, job.attempt, job.result) == (JobState.SUCCEEDED, 2, "results/attempt-2")
    assert published(database) == ["attempt-2"]


def test_a_long_job_keeps_its_lease(database: Database, store: JobStore) -> None:
    lease_s = 2.0

    def work(lease: Lease) -> None:
        lease.lost.wait(2.25 * lease_s)
        publish_in_lease(lease)

    with started_runner(store, work, lease_s=lease_s), started_runner(store, work, lease_s=lease_s):
        job = wait_for_end(store, submit(database))

    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 1)
    assert published(database) == ["attempt-1"]


def test_a_lease_is_known_to_be_lost_while_the_database_hangs(
    database_place: DatabasePlace, database: Database, store: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    submit(database)
    started, lost = threading.Event(), threading.Event()

    def work(lease: Lease) -> None:
        started.set()
        if lease.lost.wait(10):
            lost.set()
        lease.stopping.wait(10)

    other = database_place.open()
    with started_runner(store, work):
        assert started.wait(10)
        with other.transaction() as session:
            publish(session, "somebody who holds the write lock")
            session.flush()
            assert lost.wait(10)
    other.close()
    assert "lost" in caplog.text
