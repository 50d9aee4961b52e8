"""Runners of jobs over SQLite and a real PostgreSQL: handlers, threads, failures and stopping."""

import logging
import threading
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import ClassVar

import pytest

from common.database import Database
from common.errors import DataLoss, InvalidArgument
from common.jobs import JobError, JobRunner, JobState, JobStore, Lease, LeaseLost
from common.telemetry.traces import Tracer, TraceTarget, current
from tests.common.telemetry.spans import read_spans
from tests.contracts.jobs import (
    ENDLESS_S,
    LEASE_S,
    TENANT,
    claim,
    publish_in_lease,
    published,
    started_runner,
    submit,
    wait_for_end,
)
from tests.harness.processes import wait_until


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database)


def test_a_job_is_run_and_its_result_published(database: Database, store: JobStore) -> None:
    with started_runner(store, publish_in_lease):
        job = wait_for_end(store, submit(database))

    assert (job.state, job.result, job.attempt, job.progress) == (JobState.SUCCEEDED, "results/attempt-1", 1, 1.0)
    assert job.start_us is not None
    assert job.end_us is not None
    assert job.create_us <= job.start_us <= job.end_us
    assert published(database) == ["attempt-1"]


def test_waking_a_runner_starts_a_job_at_once(database: Database, store: JobStore) -> None:
    with started_runner(store, publish_in_lease, lease_s=ENDLESS_S) as runner:
        submit(database)
        runner.wake()
        wait_until(lambda: published(database) == ["attempt-1"], "the job")
        submit(database)
        runner.wake()
        wait_until(lambda: published(database) == ["attempt-1"] * 2, "the second job")


def test_stopping_a_runner_gives_its_jobs_back_at_once(database: Database, store: JobStore) -> None:
    job = submit(database)
    started = threading.Event()

    def work(lease: Lease) -> None:
        started.set()
        assert lease.stopping.wait(10)

    with started_runner(store, work, lease_s=ENDLESS_S):
        assert started.wait(10)

    assert not store.get(TENANT, job.name).state.final
    lease = claim(store)
    assert (lease.job.name, lease.attempt) == (job.name, 2)


def test_refreshing_a_runner_lets_a_handler_notice_at_once_that_its_job_was_cancelled(
    database: Database, store: JobStore
) -> None:
    job, started = submit(database), threading.Event()

    def work(lease: Lease) -> None:
        started.set()
        assert lease.cancelled.wait(10)

    with started_runner(store, work, lease_s=ENDLESS_S) as runner:
        assert started.wait(10)
        store.cancel(TENANT, job.name)
        runner.refresh()
        assert wait_for_end(store, job).state is JobState.CANCELLED


def test_a_handler_that_does_not_return_loses_its_job_when_the_runner_stops(
    database: Database, store: JobStore, caplog: pytest.LogCaptureFixture
) -> None:
    job = submit(database)
    started, go_on, outcome = threading.Event(), threading.Event(), []

    def work(lease: Lease) -> None:
        started.set()
        assert go_on.wait(10)
        try:
            publish_in_lease(lease)
        except LeaseLost:
            outcome.append("lost")

    runner = JobRunner(store, {"work": work}, lease_s=ENDLESS_S)
    runner.start()
    assert started.wait(10)
    runner.stop(0.1)
    assert "did not return" in caplog.text
    lease = claim(store)
    go_on.set()
    wait_until(lambda: outcome == ["lost"], "the late handler")

    assert lease.job.name == job.name
    assert published(database) == []


def test_the_error_of_a_handler_becomes_the_jobs(database: Database, store: JobStore) -> None:
    def work(lease: Lease) -> None:
        raise InvalidArgument("UNKNOWN_COMPONENT", "there is no such model", field="spec.model.name")

    with started_runner(store, work):
        job = wait_for_end(store, submit(database))

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
    with caplog.at_level(logging.ERROR), started_runner(store, handler):
        job = wait_for_end(store, submit(database))
        again = wait_for_end(store, submit(database))

    assert again.state is job.state is JobState.FAILED
    assert job.error is not None
    assert (job.error.code, job.error.reason) == ("INTERNAL", "INTERNAL")
    assert "hunter2" not in job.error.message
    assert job.name in caplog.text


def test_no_more_jobs_run_at_once_than_threads_were_given(database: Database, store: JobStore) -> None:
    running, most, lock, together = [0], [0], threading.Lock(), threading.Barrier(2)

    def work(lease: Lease) -> None:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        together.wait(10)
        with lock:
            running[0] -= 1
        publish_in_lease(lease)

    jobs = [submit(database) for _ in range(6)]
    with started_runner(store, work, num_threads=2):
        for job in jobs:
            assert wait_for_end(store, job).state is JobState.SUCCEEDED
    assert most == [2]


def test_each_kind_has_its_own_number_at_once(database: Database, store: JobStore) -> None:
    together, running, most = threading.Barrier(2), Counter[str](), Counter[str]()

    def work(lease: Lease) -> None:
        running[lease.job.kind] += 1
        most[lease.job.kind] = max(most[lease.job.kind], running[lease.job.kind])
        together.wait(10)
        running[lease.job.kind] -= 1
        together.wait(10)
        publish_in_lease(lease)

    handlers = {"work": work, "other": work}
    jobs = [submit(database, kind=kind) for kind in ("work", "work", "other", "other")]
    runner = JobRunner(store, handlers, lease_s=LEASE_S, num_threads={"work": 1, "other": 1})
    runner.start()
    try:
        for job in jobs:
            assert wait_for_end(store, job).state is JobState.SUCCEEDED
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
        publish_in_lease(lease)

    with started_runner(Buggy(database), work, num_threads=1):
        job = wait_for_end(JobStore(database), submit(database))

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
        publish_in_lease(lease)

    with started_runner(store, work, num_threads=1):
        job = wait_for_end(store, submit(database))

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
