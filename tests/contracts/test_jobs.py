"""What durable jobs promise, over SQLite and a real PostgreSQL: one writer, and no job is lost."""

import contextlib
import logging
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import pytest
from sqlalchemy.orm import Session

from common.database import Database
from common.errors import Cancelled, DataLoss, InvalidArgument, NotFound, ResourceExhausted
from common.jobs import Job, JobError, JobRunner, JobState, JobStore, Lease, LeaseLost
from common.telemetry.traces import Tracer, TraceTarget, current
from tests.common.telemetry.spans import read_spans
from tests.contracts.conftest import DatabasePlace
from tests.contracts.jobs import LEASE_S, TENANT, publish, published, submit
from tests.processes import wait_until

REPOSITORY = Path(__file__).parents[2]
FINAL = (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)
ENDLESS_S = 3600.0


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database)


@contextlib.contextmanager
def _runner(
    store: JobStore, handler: Callable[[Lease], None], *, lease_s: float = LEASE_S, num_threads: int = 2
) -> Iterator[JobRunner]:
    runner = JobRunner(store, {"work": handler}, lease_s=lease_s, num_threads=num_threads)
    runner.start()
    try:
        yield runner
    finally:
        runner.stop(5)


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


def _final(store: JobStore, job: Job) -> Job:
    wait_until(lambda: store.get(TENANT, job.name).state.final, f"the end of {job.name}")
    return store.get(TENANT, job.name)


def _claim(store: JobStore, owner: str = "me", lease_s: float = ENDLESS_S) -> Lease:
    lease = store.claim(owner, ["work"], lease_s)
    assert lease is not None
    return lease


def _publish_in_lease(lease: Lease) -> None:
    lease.complete(lambda session: publish(session, f"attempt-{lease.attempt}"))


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

    assert store.list(TENANT, page_size=0, page_token="") == ([], "")
    assert store.claim("me", ["work"], 1) is None


def test_a_job_is_run_and_its_result_published(database: Database, store: JobStore) -> None:
    with _runner(store, _publish_in_lease):
        job = _final(store, submit(database))

    assert (job.state, job.result, job.attempt, job.progress) == (JobState.SUCCEEDED, "results/attempt-1", 1, 1.0)
    assert job.start_us is not None
    assert job.end_us is not None
    assert job.create_us <= job.start_us <= job.end_us
    assert published(database) == ["attempt-1"]


def test_waking_a_runner_starts_a_job_at_once(database: Database, store: JobStore) -> None:
    with _runner(store, _publish_in_lease, lease_s=ENDLESS_S) as runner:
        submit(database)
        runner.wake()
        wait_until(lambda: published(database) == ["attempt-1"], "the job")
        submit(database)
        runner.wake()
        wait_until(lambda: published(database) == ["attempt-1"] * 2, "the second job")


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
    assert store.list(TENANT, page_size=0, page_token="") == ([], "")


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
        page, token = store.list(TENANT, page_size=3, page_token=token)
        pages.append([job.name for job in page])
        if not token:
            break
        submit(database)  # what is new does not shift the pages

    assert pages == [[job.name for job in reversed(jobs)][start : start + 3] for start in (0, 3, 6)]
    odd, _ = store.list(TENANT, page_size=0, page_token="", kind="odd")
    assert [job.name for job in odd] == [jobs[index].name for index in (5, 3, 1)]
    cancelled, _ = store.list(TENANT, page_size=0, page_token="", state=JobState.CANCELLED)
    assert [job.name for job in cancelled] == [jobs[0].name]


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


def test_the_oldest_job_comes_first_and_foreign_kinds_never(database: Database, store: JobStore) -> None:
    submit(database, kind="foreign")
    jobs = [submit(database) for _ in range(3)]

    assert [_claim(store).job.name for _ in jobs] == [job.name for job in jobs]
    assert store.claim("me", ["work"], 1) is None


def test_who_has_queued_many_does_not_keep_others_waiting(database: Database, store: JobStore) -> None:
    many = [submit(database, tenant="many").name for _ in range(10)]
    few = [submit(database, tenant="few").name for _ in range(2)]

    leases = [_claim(store) for _ in range(5)]

    assert [lease.job.name for lease in leases] == [many[0], few[0], many[1], few[1], many[2]]
    leases[1].complete(lambda session: "")
    leases[3].complete(lambda session: "")
    last = submit(database, tenant="few").name
    assert [_claim(store).job.name for _ in range(3)] == [last, *many[3:5]]


def test_with_equally_many_running_the_oldest_job_comes_first(database: Database, store: JobStore) -> None:
    jobs = [submit(database, tenant=tenant).name for tenant in ("c", "a", "b")]
    assert [_claim(store).job.name for _ in jobs] == jobs


def test_tenants_take_turns_on_a_single_worker(database: Database, store: JobStore) -> None:
    many = [submit(database, tenant="many").name for _ in range(3)]
    few = submit(database, tenant="few").name
    done = []
    for _ in range(4):
        lease = _claim(store)
        done.append(lease.job.name)
        lease.complete(lambda session: "")
    assert done == [many[0], few, *many[1:]]


def test_work_that_was_left_unfinished_comes_before_another_tenants_turn(database: Database, store: JobStore) -> None:
    begun, waiting = submit(database, tenant="a").name, submit(database, tenant="b").name
    assert _claim(store, "gone", lease_s=0.0).job.name == begun
    assert [_claim(store).job.name for _ in range(2)] == [begun, waiting]


def test_jobs_of_other_kinds_do_not_count_for_a_tenants_turn(database: Database, store: JobStore) -> None:
    submit(database, tenant="a", kind="foreign")
    assert store.claim("me", ["foreign"], ENDLESS_S) is not None
    first, _ = submit(database, tenant="a").name, submit(database, tenant="b")
    assert _claim(store).job.name == first


def test_a_job_that_waits_says_for_what_and_names_nothing_of_others(database: Database) -> None:
    store = JobStore(database, num_at_once={"work": 2})

    def messages() -> list[str]:
        jobs, _ = store.list(TENANT, page_size=0, page_token="")
        assert [store.get(TENANT, job.name) for job in jobs] == jobs
        return [job.message for job in jobs if job.kind == "work" and job.state is JobState.PENDING]

    with database.transaction() as session:
        first = store.submit(session, tenant=TENANT, kind="work", spec="", result="runs/first")
    submit(database, tenant="other")
    waiting = submit(database)
    submit(database, kind="foreign")
    assert messages() == ["", ""], "no job runs yet, so there is nothing to wait for"
    mine = _claim(store)
    assert mine.job.name == first.name
    assert messages() == [""], "a place is free"
    theirs = _claim(store)
    assert messages() == ["waits for runs/first"]
    mine.complete(lambda session: "")
    last = _claim(store)
    assert last.job.name == waiting.name
    submit(database)
    assert messages() == [f"waits for {last.job.name}"]
    last.complete(lambda session: "")
    submit(database, tenant="other")
    assert [theirs.job.tenant, _claim(store).job.tenant] == ["other", TENANT]


def test_jobs_whose_workers_are_gone_are_not_counted_as_running(database: Database, store: JobStore) -> None:
    orphaned = [submit(database, tenant="many").name for _ in range(3)]
    for _ in orphaned:
        _claim(store, "gone", lease_s=0.0)
    waiting = submit(database, tenant="few").name

    assert [_claim(store).job.name for _ in range(4)] == [orphaned[0], waiting, *orphaned[1:]]


def test_a_tenant_has_no_more_unfinished_jobs_than_it_may(database: Database) -> None:
    store = JobStore(database, max_per_tenant=3)

    def add(tenant: str) -> Job:
        with database.transaction() as session:
            return store.submit(session, tenant=tenant, kind="work", spec="")

    running, cancelling, waiting = (add(TENANT) for _ in range(3))
    leases = [_claim(store), _claim(store)]
    store.cancel(TENANT, cancelling.name)
    for _ in range(2):
        with pytest.raises(ResourceExhausted) as caught:
            add(TENANT)
        assert caught.value.reason == "QUOTA_EXCEEDED"
        assert caught.value.retry_delay_s
        assert "max_jobs_per_tenant" in caught.value.message
    assert {job.name for job in store.list(TENANT, page_size=0, page_token="")[0]} == {
        job.name for job in (running, cancelling, waiting)
    }
    add("other")

    # Whatever ends makes room for one.
    leases[0].complete(lambda session: "")
    add(TENANT)
    leases[1].cancel_done()
    add(TENANT)
    store.cancel(TENANT, waiting.name)
    add(TENANT)
    with pytest.raises(ResourceExhausted):
        add(TENANT)


def test_two_who_submit_at_once_do_not_pass_the_bound_together(database: Database) -> None:
    store = JobStore(database, max_per_tenant=5)

    def add(_: int) -> bool:
        with contextlib.suppress(ResourceExhausted), database.transaction() as session:
            store.submit(session, tenant=TENANT, kind="work", spec="")
            return True
        return False

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(add, range(20))) == 5


def test_a_lease_that_ends_is_taken_over_with_a_higher_token(database: Database, store: JobStore) -> None:
    submit(database)
    first = _claim(store, "first", lease_s=0.2)
    assert store.claim("second", ["work"], 1) is None

    wait_until(lambda: store.claim("second", ["work"], ENDLESS_S) is not None, "the end of the lease")

    job = store.get(TENANT, first.job.name)
    assert (job.state, job.attempt, job.start_us) == (JobState.RUNNING, 2, first.job.start_us)


def test_a_renewed_lease_is_not_taken_over(database: Database, store: JobStore) -> None:
    submit(database)
    lease = _claim(store, lease_s=0.2)
    store.renew([lease], ENDLESS_S)

    lease.lost.wait(0.4)

    assert store.claim("second", ["work"], 1) is None
    lease.expire()
    assert not lease.lost.is_set()


def test_a_lease_that_nobody_renewed_knows_it_by_itself(database: Database, store: JobStore) -> None:
    submit(database)
    lease = _claim(store, lease_s=0.1)

    threading.Event().wait(0.15)
    lease.expire()

    assert lease.lost.is_set()


def test_who_lost_the_lease_can_write_nothing(database: Database, store: JobStore) -> None:
    submit(database)
    first = _claim(store, "first", lease_s=0.0)
    second = _claim(store, "second")

    def write_midway() -> None:
        with first.transaction() as session:
            publish(session, "first")

    for call in (
        lambda: first.update(progress=0.9),
        write_midway,
        lambda: first.complete(lambda session: publish(session, "first")),
        lambda: first.fail(InvalidArgument("WRONG", "wrong")),
        first.cancel_done,
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
    lease = _claim(store)
    lease.complete(lambda session: publish(session, "once"))

    with pytest.raises(LeaseLost):
        lease.complete(lambda session: publish(session, "twice"))
    assert published(database) == ["once"]


def test_what_is_published_midway_is_fenced_and_all_or_nothing(database: Database, store: JobStore) -> None:
    submit(database)
    lease = _claim(store)
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
        with _runner(store, _publish_in_lease):
            assert _final(store, job).attempt == 2
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

        with _runner(store, _publish_in_lease):
            job = _final(store, job)

    assert (job.state, job.attempt, job.result) == (JobState.SUCCEEDED, 2, "results/attempt-2")
    assert published(database) == ["attempt-2"]


def test_a_long_job_keeps_its_lease(database: Database, store: JobStore) -> None:
    def work(lease: Lease) -> None:
        lease.lost.wait(3 * LEASE_S)
        _publish_in_lease(lease)

    with _runner(store, work), _runner(store, work):
        job = _final(store, submit(database))

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
    with _runner(store, work):
        assert started.wait(10)
        with other.transaction() as session:
            publish(session, "somebody who holds the write lock")
            session.flush()
            assert lost.wait(10)
    other.close()
    assert "lost" in caplog.text


def test_cancelling_a_job_that_waits_ends_it_at_once(database: Database, store: JobStore) -> None:
    job = store.cancel(TENANT, submit(database).name)

    assert job.state is JobState.CANCELLED
    assert job.end_us is not None
    assert store.claim("me", ["work"], 1) is None
    assert store.cancel(TENANT, job.name) == job


@pytest.mark.parametrize("raises", [True, False])
def test_cancelling_a_job_that_runs_asks_its_handler(database: Database, store: JobStore, raises: bool) -> None:
    started = threading.Event()

    def work(lease: Lease) -> None:
        started.set()
        assert lease.cancelled.wait(10)
        if raises:
            raise Cancelled("JOB_CANCELLED", "stopped as asked")

    with _runner(store, work):
        job = submit(database)
        assert started.wait(10)
        assert store.cancel(TENANT, job.name).state is JobState.CANCELLING
        assert store.cancel(TENANT, job.name).state is JobState.CANCELLING
        job = _final(store, job)

    assert (job.state, job.error) == (JobState.CANCELLED, None)


def test_a_handler_learns_of_cancelling_from_its_own_writes(database: Database, store: JobStore) -> None:
    lease = _claim_submitted(database, store)
    store.cancel(TENANT, lease.job.name)
    assert not lease.cancelled.is_set()

    lease.update(progress=0.5)

    assert lease.cancelled.is_set()
    lease.cancel_done(_clean_up)
    assert published(database) == ["cleaned up"]


def _clean_up(session: Session) -> None:
    publish(session, "cleaned up")


def _claim_submitted(database: Database, store: JobStore) -> Lease:
    submit(database)
    return _claim(store)


def test_a_job_whose_worker_died_while_cancelling_is_wound_up_by_another(database: Database, store: JobStore) -> None:
    job = submit(database)
    _claim(store, lease_s=0.1)
    store.cancel(TENANT, job.name)
    seen = []

    def work(lease: Lease) -> None:
        seen.append((lease.attempt, lease.cancelled.is_set()))

    with _runner(store, work):
        job = _final(store, job)

    assert job.state is JobState.CANCELLED
    assert seen == [(2, True)]


@pytest.mark.parametrize("state", FINAL)
def test_cancelling_a_finished_job_changes_nothing(database: Database, store: JobStore, state: JobState) -> None:
    lease = _claim_submitted(database, store)
    if state is JobState.SUCCEEDED:
        lease.complete(lambda session: "results/1")
    elif state is JobState.FAILED:
        lease.fail(InvalidArgument("WRONG", "wrong"))
    else:
        lease.cancel_done()
    job = store.get(TENANT, lease.job.name)

    assert job.state is state
    assert store.cancel(TENANT, job.name) == job
    assert store.get(TENANT, job.name) == job


def test_stopping_a_runner_gives_its_jobs_back_at_once(database: Database, store: JobStore) -> None:
    job = submit(database)
    started = threading.Event()

    def work(lease: Lease) -> None:
        started.set()
        assert lease.stopping.wait(10)

    with _runner(store, work, lease_s=ENDLESS_S):
        assert started.wait(10)

    assert not store.get(TENANT, job.name).state.final
    lease = _claim(store)
    assert (lease.job.name, lease.attempt) == (job.name, 2)


def test_a_handler_that_does_not_return_loses_its_job_when_the_runner_stops(
    database: Database, store: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    job = submit(database)
    started, go_on, outcome = threading.Event(), threading.Event(), []

    def work(lease: Lease) -> None:
        started.set()
        assert go_on.wait(10)
        try:
            _publish_in_lease(lease)
        except LeaseLost:
            outcome.append("lost")

    runner = JobRunner(store, {"work": work}, lease_s=ENDLESS_S)
    runner.start()
    assert started.wait(10)
    runner.stop(0.1)
    assert "did not return" in caplog.text
    lease = _claim(store)
    go_on.set()
    wait_until(lambda: outcome == ["lost"], "the late handler")

    assert lease.job.name == job.name
    assert published(database) == []


def test_the_error_of_a_handler_becomes_the_jobs(database: Database, store: JobStore) -> None:
    def work(lease: Lease) -> None:
        raise InvalidArgument("UNKNOWN_COMPONENT", "there is no such model", field="spec.model.name")

    with _runner(store, work):
        job = _final(store, submit(database))

    assert job.state is JobState.FAILED
    assert job.error == JobError("INVALID_ARGUMENT", "UNKNOWN_COMPONENT", "there is no such model", "spec.model.name")


def _crash(_: Lease) -> None:
    raise RuntimeError("the password is hunter2")


def _return(_: Lease) -> None:
    """Forgets to say how it went."""


@pytest.mark.parametrize("handler", [_crash, _return])
def test_a_bug_of_a_handler_fails_the_job_and_leaks_nothing(
    database: Database, store: JobStore, caplog: pytest.LogCaptureFixture, handler: Callable[[Lease], None]
) -> None:
    with caplog.at_level(logging.ERROR), _runner(store, handler):
        job = _final(store, submit(database))
        again = _final(store, submit(database))

    assert again.state is job.state is JobState.FAILED
    assert job.error is not None
    assert (job.error.code, job.error.reason) == ("INTERNAL", "INTERNAL")
    assert "hunter2" not in job.error.message
    assert job.name in caplog.text


def test_watching_shows_changes_and_ends_with_the_job(database: Database, store: JobStore) -> None:
    job = submit(database)
    watch = store.watch(TENANT, job.name)
    assert next(watch).state is JobState.PENDING
    lease = _claim(store)
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
    lease = _claim_submitted(database, store)
    for progress, kept in ((-1.0, 0.0), (2.0, 1.0)):
        lease.update(progress=progress)
        assert store.get(TENANT, lease.job.name).progress == kept


def test_no_more_jobs_run_at_once_than_threads_were_given(database: Database, store: JobStore) -> None:
    running, most, lock, together = [0], [0], threading.Lock(), threading.Barrier(2)

    def work(lease: Lease) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        together.wait(10)
        with lock:
            running[0] -= 1
        _publish_in_lease(lease)

    jobs = [submit(database) for _ in range(6)]
    with _runner(store, work, num_threads=2):
        for job in jobs:
            assert _final(store, job).state is JobState.SUCCEEDED
    assert most == [2]


def test_each_kind_has_its_own_number_at_once(database: Database, store: JobStore) -> None:
    together, running, most = threading.Barrier(2), Counter[str](), Counter[str]()

    def work(lease: Lease) -> None:
        running[lease.job.kind] += 1
        most[lease.job.kind] = max(most[lease.job.kind], running[lease.job.kind])
        together.wait(10)
        running[lease.job.kind] -= 1
        together.wait(10)
        _publish_in_lease(lease)

    handlers = {"work": work, "other": work}
    jobs = [submit(database, kind=kind) for kind in ("work", "work", "other", "other")]
    runner = JobRunner(store, handlers, lease_s=LEASE_S, num_threads={"work": 1, "other": 1})
    runner.start()
    try:
        for job in jobs:
            assert _final(store, job).state is JobState.SUCCEEDED
    finally:
        runner.stop(5)
    assert most == {"work": 1, "other": 1}


def test_a_bug_in_the_store_of_jobs_ends_no_thread(database: Database, caplog: pytest.LogCaptureFixture) -> None:
    class Buggy(JobStore):
        """Fails in every call of a runner, the first few times."""

        num_failures: ClassVar = {"claim": 3, "renew": 3}

        def claim(self, owner: str, kinds: Collection[str], lease_s: float) -> Lease | None:
            self._fail("claim")
            return super().claim(owner, kinds, lease_s)

        def renew(self, leases: Collection[Lease], lease_s: float) -> None:
            self._fail("renew")
            super().renew(leases, lease_s)

        def _fail(self, call: str) -> None:
            if self.num_failures[call]:
                self.num_failures[call] -= 1
                raise ValueError(f"a bug in {call}")

    def work(lease: Lease) -> None:
        lease.stopping.wait(LEASE_S * 3)
        _publish_in_lease(lease)

    with _runner(Buggy(database), work, num_threads=1):
        job = _final(JobStore(database), submit(database))

    assert job.state is JobState.SUCCEEDED
    assert "a bug in claim" in caplog.text
    assert "a bug in renew" in caplog.text


def test_an_outcome_that_a_bug_kept_from_being_stored_is_stored_by_another_attempt(
    database: Database, store: JobStore
) -> None:
    def work(lease: Lease) -> None:
        if lease.attempt == 1:
            lease.fail = None  # type: ignore[method-assign, assignment]  # calling it is the bug
            raise DataLoss("BLOB_DAMAGED", "damaged")
        _publish_in_lease(lease)

    with _runner(store, work, num_threads=1):
        job = _final(store, submit(database))

    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)


def test_a_job_is_done_in_the_trace_of_the_call_that_submitted_it(
    database: Database, store: JobStore, tmp_path: Path
) -> None:
    seen = []

    def handler(lease: Lease) -> None:
        seen.append(current())
        if len(seen) == 2:
            raise DataLoss("BLOB_DAMAGED", "damaged")
        lease.complete(lambda session: "")

    tracer = Tracer("example", TraceTarget(tmp_path / "spans.jsonl"))
    with tracer.span("call", sampled=True) as call:
        jobs = [submit(database).name for _ in range(2)]
    runner = JobRunner(store, {"work": handler}, num_threads=1, tracer=tracer)
    runner.start()
    wait_until(lambda: all(store.get(TENANT, name).state.final for name in jobs), "the jobs to end")
    runner.stop(5)
    tracer.close()
    _, *works = read_spans(tmp_path / "spans.jsonl")
    assert [work["name"] for work in works] == ["work", "work"]
    assert {work["parentSpanId"] for work in works} == {call.context.span_id}
    assert [span.trace_id for span in seen if span] == [call.context.trace_id] * 2
    assert [work["status"] for work in works] == [{"code": 0}, {"code": 2, "message": "BLOB_DAMAGED"}]


def test_jobs_are_counted_by_kind_and_state(database: Database, store: JobStore) -> None:
    for _ in range(3):
        job = submit(database)
    store.cancel(TENANT, job.name)
    assert store.count() == {("work", "PENDING"): 2, ("work", "CANCELLED"): 1}
