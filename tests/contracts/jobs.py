"""What the tests of jobs and their worker processes share: an effect that can be counted."""

from sqlalchemy import select
from sqlalchemy.orm import Session

from common.database import Database, now_us
from common.database.requests import Request
from common.jobs import Job, JobStore

LEASE_S = 0.6
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
