"""Which keys a tenant has, which of them marks, and by which is looked for marks.

Keys are derived from the master secret whenever they are used; a row tells that there is one, and its fingerprint. With
another master secret nothing would be found and nobody would know why, so a key that does not match its fingerprint is
refused.

What a call is marked with is settled once a request id, together with the request id under which the registry draws the
mark's id: a call that is repeated gets the same key and the same id, also after a rotation.
"""

import json
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from common.database import Database, decode_page_token, encode_page_token, now_us, once, page_size
from common.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from common.names import new_id
from deepseek.watermark.keys import MODALITIES, WatermarkKey, derive_key
from services.watermark.tables import KeyRow

MAX_KEYS = 16
"""Keys of a tenant and modality that are not revoked: content is searched for each, and each costs certainty."""

MAX_REVOKED = 4
"""Revoked keys of a tenant and modality that are tried, the newest; with more, nothing is told not to be marked."""

_FINGERPRINT_BYTES = 16


class KeyState(StrEnum):
    """What is used of a key."""

    ACTIVE = "active"
    RETIRED = "retired"
    REVOKED = "revoked"


@dataclass(frozen=True)
class Key:
    """What is known of a key.

    Attributes:
        modality: One of MODALITIES.
        epoch: 0, 1, 2, … within tenant and modality.
        state: What is used of it.
        create_us: UTC microseconds.
        revoke_us: UTC microseconds; None if it was not revoked.
    """

    modality: str
    epoch: int
    state: KeyState
    create_us: int
    revoke_us: int | None


@dataclass(frozen=True)
class Marking:
    """What something is marked with.

    Attributes:
        key: The key.
        request_id: Under which the registry draws the id; the same when a call is repeated, and known to nobody before.
    """

    key: WatermarkKey
    request_id: str


@dataclass(frozen=True)
class Finding:
    """By what marks are looked for.

    Attributes:
        keys: Those that are not revoked, newest first; none if all were.
        revoked: The newest few that are, newest first: whoever got to know them can mark with them.
        is_complete: Whether no more are.
    """

    keys: list[WatermarkKey]
    revoked: list[WatermarkKey]
    is_complete: bool = True


class Keys:
    """Keys of all tenants. Safe to share between threads.

    Args:
        database: Migrated; borrowed, not closed.
        master: The master secret.
    """

    def __init__(self, database: Database, master: bytes) -> None:
        self._database = database
        self._master = master

    def check_master(self) -> None:
        """Makes sure that the keys there are come from this master secret.

        Raises:
            FailedPrecondition: WRONG_MASTER_KEY.
        """
        with self._database.snapshot() as session:
            row = session.scalar(select(KeyRow).limit(1))
            if row is not None:
                self._derived(row)

    def for_marking(self, tenant: str, modality: str, *, method: str, request_id: str, body: bytes) -> Marking:
        """The key that marks, made if it is the first.

        Args:
            tenant: Whose.
            modality: One of MODALITIES.
            method: Name of the call, for the request id.
            request_id: Makes repeats harmless; empty for no protection.
            body: The request's bytes, compared when the id comes again.

        Raises:
            FailedPrecondition: NO_ACTIVE_KEY, with the field `request_id` if the key is what an earlier call took;
                WRONG_MASTER_KEY.
            AlreadyExists: REQUEST_ID_REUSED.
        """
        with self._database.transaction() as session:
            is_repeat = True

            def effect() -> str:
                nonlocal is_repeat
                is_repeat = False
                newest = _newest(session, tenant, modality)
                row = self._insert(session, tenant, modality, 0) if newest is None else newest
                return json.dumps([row.epoch, f"watermark-{new_id()}"])

            made = once(session, tenant=tenant, method=method, request_id=request_id, body=body, effect=effect)
            epoch, registry_request_id = json.loads(made)
            row = session.get_one(KeyRow, (tenant, modality, epoch))
            if row.revoke_us is not None and is_repeat:
                message = (
                    f"the key of epoch {epoch}, which the first call with this request id took, was revoked; take a "
                    "new request id"
                )
                raise FailedPrecondition("NO_ACTIVE_KEY", message, field="request_id")
            _refuse_revoked(row)
            return Marking(self._derived(row), registry_request_id)

    def check_usable(self, key: WatermarkKey) -> None:
        """Makes sure that a key that marks was not revoked meanwhile.

        Raises:
            FailedPrecondition: NO_ACTIVE_KEY.
        """
        with self._database.snapshot() as session:
            _refuse_revoked(session.get_one(KeyRow, (key.tenant, key.modality, key.epoch)))

    def for_finding(self, tenant: str, modality: str) -> Finding:
        """The keys by which marks are looked for.

        Raises:
            FailedPrecondition: WRONG_MASTER_KEY.
        """
        with self._database.snapshot() as session:
            if _newest(session, tenant, modality) is None:
                # Looking makes no key, and what was never marked is told from what cannot be found any more.
                return Finding([derive_key(self._master, tenant=tenant, modality=modality, epoch=0)], [])
            every = _of(tenant, modality)
            rows = session.scalars(every.where(KeyRow.revoke_us.is_(None)))
            revoked = session.scalars(every.where(KeyRow.revoke_us.is_not(None)).limit(MAX_REVOKED + 1)).all()
            return Finding(
                [self._derived(row) for row in rows],
                [self._derived(row) for row in revoked[:MAX_REVOKED]],
                is_complete=len(revoked) <= MAX_REVOKED,
            )

    def list_keys(self, tenant: str, modality: str, *, size: int, token: str) -> tuple[list[Key], str]:
        """A page of keys, newest first, and the next page's token.

        Raises:
            InvalidArgument: BAD_VALUE, BAD_PAGE_TOKEN.
        """
        _check_modality(modality)
        limit = page_size(size)
        query = _of(tenant, modality)
        if key := decode_page_token(token, (str, int)):
            if key[0] != modality:
                raise InvalidArgument("BAD_PAGE_TOKEN", "the page token belongs to another list", field="page_token")
            query = query.where(KeyRow.epoch < key[1])
        with self._database.snapshot() as session:
            newest = _newest(session, tenant, modality)
            rows = list(session.scalars(query.limit(limit + 1)))
            keys = [_key(row, newest) for row in rows[:limit]]
        return keys, encode_page_token((modality, rows[limit - 1].epoch)) if len(rows) > limit else ""

    def rotate(self, tenant: str, modality: str, *, request_id: str, body: bytes) -> Key:
        """Makes a new key, which marks from now on.

        Args:
            tenant: Whose.
            modality: One of MODALITIES.
            request_id: As in `for_marking`.
            body: As in `for_marking`.

        Raises:
            InvalidArgument: BAD_VALUE.
            ResourceExhausted: TOO_MANY_KEYS.
            FailedPrecondition: WRONG_MASTER_KEY.
            AlreadyExists: REQUEST_ID_REUSED.
        """
        _check_modality(modality)
        with self._database.transaction() as session:

            def effect() -> str:
                newest = _newest(session, tenant, modality)
                usable = _of(tenant, modality).where(KeyRow.revoke_us.is_(None)).order_by(None)
                num_usable = session.scalar(select(func.count()).select_from(usable.subquery())) or 0
                if num_usable >= MAX_KEYS:
                    message = f"{num_usable} keys are not revoked, the most there may be; revoke one by RevokeKey"
                    raise ResourceExhausted("TOO_MANY_KEYS", message, field="modality")
                return str(self._insert(session, tenant, modality, newest.epoch + 1 if newest else 0).epoch)

            made = once(session, tenant=tenant, method="RotateKey", request_id=request_id, body=body, effect=effect)
            row = session.get_one(KeyRow, (tenant, modality, int(made)))
            return _key(row, _newest(session, tenant, modality))

    def revoke(self, tenant: str, modality: str, epoch: int) -> Key:
        """Takes a key out of use for good; again it changes nothing.

        Raises:
            InvalidArgument: BAD_VALUE.
            NotFound: KEY_NOT_FOUND.
        """
        _check_modality(modality)
        with self._database.transaction() as session:
            row = session.get(KeyRow, (tenant, modality, epoch))
            if row is None:
                message = f"there is no key of epoch {epoch}; ListKeys tells which there are"
                raise NotFound("KEY_NOT_FOUND", message, field="epoch")
            row.revoke_us = row.revoke_us or now_us()
            return _key(row, _newest(session, tenant, modality))

    def _insert(self, session: Session, tenant: str, modality: str, epoch: int) -> KeyRow:
        # In the same transaction, so that no two services with two master secrets both make the first key.
        any_row = session.scalar(select(KeyRow).limit(1))
        if any_row is not None:
            self._derived(any_row)
        key = derive_key(self._master, tenant=tenant, modality=modality, epoch=epoch)
        row = KeyRow(
            tenant=tenant,
            modality=modality,
            epoch=epoch,
            fingerprint=_fingerprint(key),
            create_us=now_us(),
            revoke_us=None,
        )
        session.add(row)
        session.flush()
        return row

    def _derived(self, row: KeyRow) -> WatermarkKey:
        key = derive_key(self._master, tenant=row.tenant, modality=row.modality, epoch=row.epoch)
        if _fingerprint(key) != row.fingerprint:
            message = (
                "the keys of this state were derived from another master key; put that one back in the place of "
                "master_key_file and start the service again"
            )
            raise FailedPrecondition("WRONG_MASTER_KEY", message, field="master_key_file")
        return key


def has_keys(database: Database) -> bool:
    """Whether a key was derived from a master secret already."""
    with database.snapshot() as session:
        return session.scalar(select(KeyRow.epoch).limit(1)) is not None


def _fingerprint(key: WatermarkKey) -> str:
    return key.subkey("fingerprint", _FINGERPRINT_BYTES).hex()


def _check_modality(modality: str) -> None:
    if modality not in MODALITIES:
        raise InvalidArgument("BAD_VALUE", f"a modality is one of {', '.join(MODALITIES)}", field="modality")


def _of(tenant: str, modality: str) -> Select[KeyRow]:
    """Keys, newest first."""
    query = select(KeyRow).where(KeyRow.tenant == tenant, KeyRow.modality == modality)
    return query.order_by(KeyRow.epoch.desc())


def _newest(session: Session, tenant: str, modality: str) -> KeyRow | None:
    return session.scalar(_of(tenant, modality).limit(1))


def _refuse_revoked(row: KeyRow) -> None:
    if row.revoke_us is not None:
        message = f"the key of epoch {row.epoch} was revoked, so nothing is marked with it; RotateKey makes a new one"
        raise FailedPrecondition("NO_ACTIVE_KEY", message)


def _key(row: KeyRow, newest: KeyRow | None) -> Key:
    if row.revoke_us is not None:
        state = KeyState.REVOKED
    else:
        state = KeyState.ACTIVE if newest is not None and newest.epoch == row.epoch else KeyState.RETIRED
    return Key(row.modality, row.epoch, state, row.create_us, row.revoke_us)
