"""Which job is claimed next, and how many a tenant may have, over SQLite and a real PostgreSQL."""

import contextlib
from concurrent.futures import ThreadPoolExecutor

import pytest

from common.database import Database, PageRequest
from common.errors import ResourceExhausted
from common.jobs import Job, JobState, JobStore
from tests.contracts.jobs import ENDLESS_S, TENANT, claim, submit


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database)


def test_the_oldest_job_comes_first_and_foreign_kinds_never(database: Database, store: JobStore) -> None:
    submit(database, kind="foreign")
    jobs = [submit(database) for _ in range(3)]

    assert [claim(store).job.name for _ in jobs] == [job.name for job in jobs]
    assert store.claim("me", ["work"], 1) is None


def test_who_has_queued_many_does_not_keep_others_waiting(database: Database, store: JobStore) -> None:
    many = [submit(database, tenant="many").name for _ in range(10)]
    few = [submit(database, tenant="few").name for _ in range(2)]

    leases = [claim(store) for _ in range(5)]

    assert [lease.job.name for lease in leases] == [many[0], few[0], many[1], few[1], many[2]]
    leases[1].complete(lambda session: "")
    leases[3].complete(lambda session: "")
    last = submit(database, tenant="few").name
    assert [claim(store).job.name for _ in range(3)] == [last, *many[3:5]]


def test_with_equally_many_running_the_oldest_job_comes_first(database: Database, store: JobStore) -> None:
    jobs = [submit(database, tenant=tenant).name for tenant in ("c", "a", "b")]
    assert [claim(store).job.name for _ in jobs] == jobs


def test_tenants_take_turns_on_a_single_worker(database: Database, store: JobStore) -> None:
    many = [submit(database, tenant="many").name for _ in range(3)]
    few = submit(database, tenant="few").name
    done = []
    for _ in range(4):
        lease = claim(store)
        done.append(lease.job.name)
        lease.complete(lambda session: "")
    assert done == [many[0], few, *many[1:]]


def test_work_that_was_left_unfinished_comes_before_another_tenants_turn(database: Database, store: JobStore) -> None:
    begun, waiting = submit(database, tenant="a").name, submit(database, tenant="b").name
    assert claim(store, "gone", lease_s=0.0).job.name == begun
    assert [claim(store).job.name for _ in range(2)] == [begun, waiting]


def test_jobs_of_other_kinds_do_not_count_for_a_tenants_turn(database: Database, store: JobStore) -> None:
    submit(database, tenant="a", kind="foreign")
    assert store.claim("me", ["foreign"], ENDLESS_S) is not None
    first, _ = submit(database, tenant="a").name, submit(database, tenant="b")
    assert claim(store).job.name == first


def test_a_job_that_waits_says_for_what_and_names_nothing_of_others(database: Database) -> None:
    store = JobStore(database, num_at_once={"work": 2})

    def messages() -> list[str]:
        jobs, _ = store.list(TENANT, PageRequest())
        assert [store.get(TENANT, job.name) for job in jobs] == jobs
        return [job.message for job in jobs if job.kind == "work" and job.state is JobState.PENDING]

    with database.transaction() as session:
        first = store.submit(session, tenant=TENANT, kind="work", spec="", result="runs/first")
    submit(database, tenant="other")
    waiting = submit(database)
    submit(database, kind="foreign")
    assert messages() == ["", ""], "no job runs yet, so there is nothing to wait for"
    mine = claim(store)
    assert mine.job.name == first.name
    assert messages() == [""], "a place is free"
    theirs = claim(store)
    assert messages() == ["waits for runs/first"]
    behind = submit(database)
    submit(database, tenant="other")
    assert sorted(messages()) == ["waits for runs/first", "waits for runs/first; number 2 in line"]
    store.cancel(TENANT, behind.name)
    mine.complete(lambda session: "")
    last = claim(store)
    assert last.job.name == waiting.name
    submit(database)
    assert messages() == [f"waits for {last.job.name}"]
    last.complete(lambda session: "")
    submit(database, tenant="other")
    assert [theirs.job.tenant, claim(store).job.tenant] == ["other", TENANT]


def test_jobs_whose_workers_are_gone_are_not_counted_as_running(database: Database, store: JobStore) -> None:
    orphaned = [submit(database, tenant="many").name for _ in range(3)]
    for _ in orphaned:
        claim(store, "gone", lease_s=0.0)
    waiting = submit(database, tenant="few").name

    assert [claim(store).job.name for _ in range(4)] == [orphaned[0], waiting, *orphaned[1:]]


def test_a_tenant_has_no_more_unfinished_jobs_than_it_may(database: Database) -> None:
    store = JobStore(database, max_per_tenant=3)

    def add(tenant: str) -> Job:
        with database.transaction() as session:
            return store.submit(session, tenant=tenant, kind="work", spec="")

    running, cancelling, waiting = (add(TENANT) for _ in range(3))
    leases = [claim(store), claim(store)]
    store.cancel(TENANT, cancelling.name)
    for _ in range(2):
        with pytest.raises(ResourceExhausted) as caught:
            add(TENANT)
        assert caught.value.reason == "QUOTA_EXCEEDED"
        assert caught.value.retry_delay_s
        assert "max_jobs_per_tenant" in caught.value.message
    assert {job.name for job in store.list(TENANT, PageRequest())[0]} == {
        job.name for job in (running, cancelling, waiting)
    }
    add("other")

    # Whatever ends makes room for one.
    leases[0].complete(lambda session: "")
    add(TENANT)
    leases[1].mark_cancelled()
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
