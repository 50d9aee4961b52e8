"""Request ids: a creating call takes effect once, however often it is sent (AIP-155).

The id is stored in the transaction of the effect, so neither is ever there without the other, and ids are unique by
the table's key. A transaction is the only writer (`common.database.database`): the same id that arrives twice at once
is worked off in turn.
"""

import hashlib
import re
from collections.abc import Callable

from sqlalchemy import delete
from sqlalchemy.orm import Mapped, Session, mapped_column

from common.database.base import Base, now_us
from common.errors import AlreadyExists, InvalidArgument

KEPT_US = 7 * 24 * 3600 * 1_000_000
"""How long an id is remembered: 7 days."""

_REQUEST_ID = re.compile(r"[!-~]{1,128}")


class Request(Base):
    """A creating call that took effect."""

    __tablename__ = "requests"

    tenant: Mapped[str] = mapped_column(primary_key=True)
    method: Mapped[str] = mapped_column(primary_key=True)
    request_id: Mapped[str] = mapped_column(primary_key=True)
    body_sha256: Mapped[str]
    response: Mapped[str]
    create_us: Mapped[int] = mapped_column(index=True)


def once(session: Session, *, tenant: str, method: str, request_id: str, body: bytes, effect: Callable[[], str]) -> str:
    """Runs an effect unless this request has had it already.

    Args:
        session: The transaction of `Database.transaction` that the effect belongs to.
        tenant: The caller's tenant.
        method: Name of the RPC; ids of different methods do not meet.
        request_id: The caller's id, up to 128 printable ASCII characters; empty for none.
        body: The request, serialized the same way each time.
        effect: Does the work in `session` and returns what identifies its outcome, e.g. a resource name.

    Returns:
        What the effect returned, now or the first time.

    Raises:
        AlreadyExists: REQUEST_ID_REUSED (field `request_id`) if the id came with another body.
        InvalidArgument: BAD_VALUE (field `request_id`).
    """
    if not request_id:
        return effect()
    if not _REQUEST_ID.fullmatch(request_id):
        raise InvalidArgument(
            "BAD_VALUE", "a request id has up to 128 printable ASCII characters and no spaces", field="request_id"
        )
    now = now_us()
    session.execute(delete(Request).where(Request.create_us < now - KEPT_US))
    body_sha256 = hashlib.sha256(body).hexdigest()
    earlier = session.get(Request, (tenant, method, request_id))
    if earlier is not None:
        if earlier.body_sha256 != body_sha256:
            raise AlreadyExists(
                "REQUEST_ID_REUSED",
                "this request id was used for another request; take a new one for each new request",
                field="request_id",
            )
        return earlier.response
    request = Request(
        tenant=tenant, method=method, request_id=request_id, body_sha256=body_sha256, response="", create_us=now
    )
    session.add(request)
    session.flush()
    request.response = effect()
    return request.response
