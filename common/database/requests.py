"""Request ids: a call that creates something takes effect only once, no matter how often it is sent (AIP-155).

The id is stored in the same transaction as the effect of the call, so neither exists without the other. The table's key
makes ids unique. Only one transaction writes at a time (`common.database.database`), so two concurrent calls with the
same id are handled one after the other.
"""

import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass

from sqlalchemy import delete
from sqlalchemy.orm import Mapped, Session, mapped_column

from common.database.base import Base, now_us
from common.errors import AlreadyExists, InvalidArgument

KEPT_US = 7 * 24 * 3600 * 1_000_000
"""Time in microseconds for which an id is remembered: 7 days."""

_REQUEST_ID = re.compile(r"[!-~]{1,128}")


@dataclass(frozen=True)
class Repeatable:
    """A call that creates something, and that its caller may repeat under the same request id.

    Attributes:
        method: Name of the RPC; the ids of different methods are independent.
        request_id: The caller's id, up to 128 printable ASCII characters. If empty, every repetition takes effect.
        body: The request, serialized the same way each time.
    """

    method: str
    request_id: str = ""
    body: bytes = b""


class Request(Base):
    """A row for a call that took effect."""

    __tablename__ = "requests"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    method: Mapped[str] = mapped_column(primary_key=True)
    request_id: Mapped[str] = mapped_column(primary_key=True)
    body_sha256: Mapped[str]
    response: Mapped[str]
    create_us: Mapped[int] = mapped_column(index=True)


def earlier(session: Session, tenant: str, call: Repeatable) -> str | None:
    """Returns what a call returned when it took effect; None if it has not.

    A call whose checks depend on what it changes, e.g. on a budget, is looked up before them: a repetition must not be
    refused because the first one has succeeded.

    Args:
        session: Snapshot or transaction.
        tenant: The caller's tenant.
        call: The call.

    Raises:
        AlreadyExists: REQUEST_ID_REUSED (field `request_id`) if the id was used with a different body.
        InvalidArgument: BAD_VALUE (field `request_id`).
    """
    if not call.request_id:
        return None
    if not _REQUEST_ID.fullmatch(call.request_id):
        raise InvalidArgument(
            "BAD_VALUE",
            "a request id has up to 128 printable ASCII characters and no spaces",
            field="request_id",
        )
    found = session.get(Request, (tenant, call.method, call.request_id))
    if found is None or found.create_us < now_us() - KEPT_US:
        return None
    if found.body_sha256 != _body_sha256(call):
        raise AlreadyExists(
            "REQUEST_ID_REUSED",
            "this request id was used for a different request; use a new id for each new request",
            field="request_id",
        )
    return found.response


def once(session: Session, tenant: str, call: Repeatable, effect: Callable[[], str]) -> str:
    """Runs the effect of a call, unless the same call has already taken effect.

    Args:
        session: Transaction of the effect, from `Database.transaction`.
        tenant: The caller's tenant.
        call: The call.
        effect: Function that does the work in `session` and returns a text that identifies the outcome, e.g. a
            resource name.

    Returns:
        The return value of `effect`, either from this call or from the first call with this id.

    Raises:
        AlreadyExists: REQUEST_ID_REUSED (field `request_id`) if the id was used with a different body.
        InvalidArgument: BAD_VALUE (field `request_id`).
    """
    if not call.request_id:
        return effect()
    now = now_us()
    session.execute(delete(Request).where(Request.create_us < now - KEPT_US))
    response = earlier(session, tenant, call)
    if response is not None:
        return response
    request = Request(
        tenant=tenant,
        method=call.method,
        request_id=call.request_id,
        body_sha256=_body_sha256(call),
        response="",
        create_us=now,
    )
    session.add(request)
    session.flush()
    request.response = effect()
    return request.response


def _body_sha256(call: Repeatable) -> str:
    return hashlib.sha256(call.body).hexdigest()
