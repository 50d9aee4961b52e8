"""Rows of the request table, which tests of databases write and read."""

from sqlalchemy import select

from common.database import Database, now_us
from common.database.requests import Request


def new_request(request_id: str, response: str = "") -> Request:
    """Returns a request that is not stored yet."""
    return Request(tenant="t", method="m", request_id=request_id, body_sha256="", response=response, create_us=now_us())


def request_ids(database: Database) -> list[str]:
    """Returns the ids of all stored requests, in order."""
    with database.snapshot() as session:
        return sorted(session.scalars(select(Request.request_id)))
