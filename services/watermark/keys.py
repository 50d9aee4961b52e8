"""A tenant's keys: the one that marks, and those that detection tries.

Keys are derived from the master secret when they are used. The database stores only that a key exists, and the key's
fingerprint, by which a wrong master secret is recognized. With a wrong secret, detection would silently miss all marks.

The epoch of a call's marking key is stored under the call's request id, together with a second request id. The call to
the registry that draws the mark's id uses this second request id. A repeated call therefore gets the same key and the
same mark id, even after a rotation.
"""

import json
from dataclasses import dataclass
from enum import StrEnum

from sqlalchemy import Select, func, select
from sqlalchemy.orm import Session

from common.database import Database, PageRequest, Repeatable, fetch_page, now_us, once
from common.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from common.names import new_id
from deepseek.watermark.keys import MODALITIES, WatermarkKey, derive_key
from services.watermark.tables import KeyRow

MAX_KEYS = 16
"""Maximum number of unrevoked keys per tenant and modality. Detection tries all of them, and each additional key
weakens the evidence."""

MAX_REVOKED = 4
"""Maximum number of revoked keys that detection tries per tenant and modality, newest first. If more keys have been
revoked, no content is reported as unmarked."""

_FINGERPRINT_BYTES = 16


class KeyState(StrEnum):
    """What a key may be used for: marking and detection, detection only, or neither."""

    ACTIVE = "active"
    RETIRED = "retired"
    REVOKED = "revoked"


@dataclass(frozen=True)
class Key:
    """A key without its secret.

    Attributes:
        modality: One of MODALITIES.
        epoch: Number of the key within the tenant and modality: 0, 1, 2, …
        state: State of the key.
        create_us: Creation time, UTC microseconds.
        revoke_us: Time of revocation, UTC microseconds; None if the key is not revoked.
    """

    modality: str
    epoch: int
    state: KeyState
    create_us: int
    revoke_us: int | None


@dataclass(frozen=True)
class MarkingKey:
    """The marking key of a call.

    Attributes:
        key: The key.
        request_id: Request id for the call in which the registry draws the id of the mark. This request id is secret,
            and stays the same when the marking call is repeated.
    """

    key: WatermarkKey
    request_id: str


@dataclass(frozen=True)
class DetectionKeys:
    """The keys that detection tries.

    Attributes:
        usable: Unrevoked keys, newest first; empty if all keys are revoked.
        revoked: The newest revoked keys, newest first. An attacker may know a revoked key and use it to mark content.
        is_complete: Whether `revoked` contains all revoked keys of the tenant and modality.
    """

    usable: list[WatermarkKey]
    revoked: list[WatermarkKey]
    is_complete: bool = True


class KeyStore:
    """Keys of all tenants. Thread-safe.

    Args:
        database: Migrated database; borrowed, not closed.
        master: Master secret.
    """

    def __init__(self, database: Database, master: bytes) -> None:
        self._database = database
        self._master = master

    def check_master(self) -> None:
        """Checks that existing keys were derived from this store's master secret.

        Raises:
            FailedPrecondition: WRONG_MASTER_KEY.
        """
        with self._database.snapshot() as session:
            row = session.scalar(select(KeyRow).limit(1))
            if row is not None:
                self._derived(row)

    def marking_key(self, tenant: str, modality: str, call: Repeatable) -> MarkingKey:
        """Returns the key to mark with. If the tenant has no key for the modality, creates one.

        Args:
            tenant: Tenant that owns the keys.
            modality: One of MODALITIES.
            call: Identity of the call, used to recognize repeats.

        Raises:
            FailedPrecondition: WRONG_MASTER_KEY; NO_ACTIVE_KEY if the marking key has been revoked. If this call
                repeats one that used the key, the error's field is `request_id`.
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

            made = once(session, tenant, call, effect)
            epoch, registry_request_id = json.loads(made)
            row = session.get_one(KeyRow, (tenant, modality, epoch))
            if row.revoke_us is not None and is_repeat:
                message = (
                    f"the first call with this request id used the key with epoch {epoch}, which has been revoked; "
                    "use a new request id"
                )
                raise FailedPrecondition("NO_ACTIVE_KEY", message, field="request_id")
            _refuse_revoked(row)
            return MarkingKey(self._derived(row), registry_request_id)

    def check_usable(self, key: WatermarkKey) -> None:
        """Checks that a marking key has not been revoked since `marking_key` returned it.

        Raises:
            FailedPrecondition: NO_ACTIVE_KEY.
        """
        with self._database.snapshot() as session:
            _refuse_revoked(session.get_one(KeyRow, (key.tenant, key.modality, key.epoch)))

    def detection_keys(self, tenant: str, modality: str) -> DetectionKeys:
        """Returns the keys that detection tries.

        Raises:
            FailedPrecondition: WRONG_MASTER_KEY.
        """
        with self._database.snapshot() as session:
            if _newest(session, tenant, modality) is None:
                # If there is no key yet, detection derives and tries the future first key, without creating it. With no
                # key to try, the outcome would be inconclusive, as if all keys had been revoked.
                return DetectionKeys([derive_key(self._master, tenant=tenant, modality=modality, epoch=0)], [])
            every = _newest_first(tenant, modality)
            rows = session.scalars(every.where(KeyRow.revoke_us.is_(None)))
            revoked = session.scalars(every.where(KeyRow.revoke_us.is_not(None)).limit(MAX_REVOKED + 1)).all()
            return DetectionKeys(
                [self._derived(row) for row in rows],
                [self._derived(row) for row in revoked[:MAX_REVOKED]],
                is_complete=len(revoked) <= MAX_REVOKED,
            )

    def list_keys(self, tenant: str, modality: str, page: PageRequest) -> tuple[list[Key], str]:
        """Returns a page of keys, newest first, and the token of the next page.

        Raises:
            InvalidArgument: BAD_VALUE, BAD_PAGE_TOKEN.
        """
        _check_modality(modality)
        query = select(KeyRow).where(KeyRow.tenant == tenant, KeyRow.modality == modality)
        with self._database.snapshot() as session:
            newest = _newest(session, tenant, modality)
            rows, token = fetch_page(session, query, (KeyRow.epoch,), page, scope=modality, descending=True)
            return [_key(row, newest) for row in rows], token

    def rotate(self, tenant: str, modality: str, call: Repeatable) -> Key:
        """Creates a new key for marking. Earlier unrevoked keys are still used for detection.

        Args:
            tenant: Tenant that owns the keys.
            modality: One of MODALITIES.
            call: See `marking_key`.

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
                usable = _newest_first(tenant, modality).where(KeyRow.revoke_us.is_(None)).order_by(None)
                num_usable = session.scalar(select(func.count()).select_from(usable.subquery())) or 0
                if num_usable >= MAX_KEYS:
                    message = f"the tenant has {num_usable} usable keys, the maximum; revoke one with RevokeKey"
                    raise ResourceExhausted("TOO_MANY_KEYS", message, field="modality")
                return str(self._insert(session, tenant, modality, newest.epoch + 1 if newest else 0).epoch)

            made = once(session, tenant, call, effect)
            row = session.get_one(KeyRow, (tenant, modality, int(made)))
            return _key(row, _newest(session, tenant, modality))

    def revoke(self, tenant: str, modality: str, epoch: int) -> Key:
        """Revokes a key permanently. Idempotent.

        Raises:
            InvalidArgument: BAD_VALUE.
            NotFound: KEY_NOT_FOUND.
        """
        _check_modality(modality)
        with self._database.transaction() as session:
            row = session.get(KeyRow, (tenant, modality, epoch))
            if row is None:
                message = f"there is no key with epoch {epoch}; ListKeys returns the existing keys"
                raise NotFound("KEY_NOT_FOUND", message, field="epoch")
            row.revoke_us = row.revoke_us or now_us()
            return _key(row, _newest(session, tenant, modality))

    def _insert(self, session: Session, tenant: str, modality: str, epoch: int) -> KeyRow:
        # An existing key is checked in the same transaction, so that two services with different master secrets cannot
        # both create keys.
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
                "the keys in the database were derived from another master key; restore that key as master_key_file "
                "and restart the service"
            )
            raise FailedPrecondition("WRONG_MASTER_KEY", message, field="master_key_file")
        return key


def has_keys(database: Database) -> bool:
    """Returns whether any key has been derived from a master secret."""
    with database.snapshot() as session:
        return session.scalar(select(KeyRow.epoch).limit(1)) is not None


def _fingerprint(key: WatermarkKey) -> str:
    return key.subkey("fingerprint", _FINGERPRINT_BYTES).hex()


def _check_modality(modality: str) -> None:
    if modality not in MODALITIES:
        message = f"the modality is unset or unknown; use {' or '.join(MODALITIES)}"
        raise InvalidArgument("BAD_VALUE", message, field="modality")


def _newest_first(tenant: str, modality: str) -> Select[KeyRow]:
    query = select(KeyRow).where(KeyRow.tenant == tenant, KeyRow.modality == modality)
    return query.order_by(KeyRow.epoch.desc())


def _newest(session: Session, tenant: str, modality: str) -> KeyRow | None:
    return session.scalar(_newest_first(tenant, modality).limit(1))


def _refuse_revoked(row: KeyRow) -> None:
    if row.revoke_us is not None:
        message = f"the key with epoch {row.epoch} has been revoked and cannot mark; RotateKey creates a new key"
        raise FailedPrecondition("NO_ACTIVE_KEY", message)


def _key(row: KeyRow, newest: KeyRow | None) -> Key:
    if row.revoke_us is not None:
        state = KeyState.REVOKED
    else:
        state = KeyState.ACTIVE if newest is not None and newest.epoch == row.epoch else KeyState.RETIRED
    return Key(row.modality, row.epoch, state, row.create_us, row.revoke_us)
