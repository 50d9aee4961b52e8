"""What the tests of jobs and their worker processes share: an effect that can be counted, claims and runners."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from sqlalchemy import select
from sqlalchemy.orm import Session

from common.database import Database, now_us
from common.database.requests import Request
from common.jobs import Job, JobRunner, JobStore, Lease
from tests.harness.processes import wait_until

LEASE_S = 0.6
ENDLESS_S = 3600.0
TENANT = "default"


def publish(session: Session, who: str) -> str:
    """Writes a result that is there as often as it was published."""
    row_id = f"{who}-{now_us()}"
    session.add(Request(tenant=TENANT, method="result", request_id=row_id, body_sha256="", response=who, create_us=1))
    return f"results/{who}"


def published(database: Database) -> list[str]:
    """Returns by whom results were published."""
    with database.snapshot() as session:
        return sorted(session.scalars(select(Request.response).where(Request.method == "result")))


def submit(database: Database, *, kind: str = "work", spec: str = "{}", tenant: str = TENANT) -> Job:
    """Adds a job."""
    with database.transaction() as session:
        return JobStore(database).submit(session, tenant=tenant, kind=kind, spec=spec)


@contextmanager
def started_runner(
    store: JobStore, handler: Callable[[Lease], None], *, lease_s: float = LEASE_S, num_threads: int = 2
) -> Iterator[JobRunner]:
    """Runs jobs of the kind `work` until the block ends."""
    runner = JobRunner(store, {"work": handler}, lease_s=lease_s, num_threads=num_threads)
    runner.start()
    try:
        yield runner
    finally:
        runner.stop(5)


def wait_for_end(store: JobStore, job: Job) -> Job:
    """Waits until a job has ended; returns it."""
    wait_until(lambda: store.get(TENANT, job.name).state.final, f"the end of {job.name}")
    return store.get(TENANT, job.name)


def claim(store: JobStore, owner: str = "me", lease_s: float = ENDLESS_S) -> Lease:
    """Claims the job that is next."""
    lease = store.claim(owner, ["work"], lease_s)
    assert lease is not None
    return lease


def publish_in_lease(lease: Lease) -> None:
    """A handler whose result names the attempt."""
    lease.complete(lambda session: publish(session, f"attempt-{lease.attempt}"))


def submit_and_claim(database: Database, store: JobStore) -> Lease:
    """Adds a job and claims it."""
    submit(database)
    return claim(store)
