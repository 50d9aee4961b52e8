"""Aliases: movable names for versions, moved by compare-and-swap and with every move on record.

A transaction is the only writer (`common.database`), so of two callers who expect the same place exactly one wins, and
the other learns where the alias stands now. Setting an alias to where it stands is allowed and leaves no trace. A move
that is repeated with its request id, because the answer was lost, is answered as it was the first time.
"""

import json

from sqlalchemy import select
from sqlalchemy.orm import Session

from common.database import Database, now_us, once
from common.errors import Aborted, InvalidArgument
from services.registry.pages import PageRequest, fetch_page
from services.registry.resolve import find_alias, find_series, find_version
from services.registry.resources import (
    Alias,
    AliasMove,
    Kind,
    VersionReference,
    alias_name,
    parse_alias,
    parse_series,
    parse_version,
    series_name,
    version_name,
)
from services.registry.tables import AliasMoveRow, AliasRow


class Aliases:
    """Aliases of all tenants. Safe to share between threads.

    Args:
        database: Migrated; borrowed, not closed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def set(
        self,
        tenant: str,
        name: str,
        version: str,
        expected_version: str,
        *,
        method: str = "SetAlias",
        request_id: str = "",
        body: bytes = b"",
    ) -> Alias:
        """Point an alias at a version if it stands where the caller thinks it does.

        Args:
            tenant: Owner.
            name: Of the alias.
            version: Name of a version of the same parent.
            expected_version: Where the alias stands now; empty if it must not exist.
            method: Name of the call, for the request id.
            request_id: Makes repeats harmless; empty for no protection.
            body: The request's bytes, compared when the id comes again.

        Returns:
            The alias, as this call (or the first one with this request id) left it.

        Raises:
            InvalidArgument: BAD_NAME or BAD_VALUE.
            NotFound: The parent or the version does not exist.
            AlreadyExists: REQUEST_ID_REUSED.
            Aborted: ALIAS_MOVED if the alias stands elsewhere.
        """
        kind, series_id, alias_id = parse_alias(name, field="name")
        number = _number_in(version, kind, series_id, field="version")
        expected = _number_in(expected_version, kind, series_id, field="expected_version") if expected_version else None
        with self._database.transaction() as session:

            def effect() -> str:
                find_series(session, tenant, kind, series_id, field="name")
                find_version(session, tenant, VersionReference(kind, series_id, number=number), field="version")
                row = session.get(AliasRow, (tenant, kind.value, series_id, alias_id))
                current = row.number if row else None
                if current != expected:
                    stands = f"at {version_name(kind, series_id, current)!r}" if current else "nowhere yet"
                    thought = repr(expected_version) if expected else "nowhere"
                    raise Aborted(
                        "ALIAS_MOVED",
                        f"{name!r} stands {stands}, not {thought}; read it again",
                        field="expected_version",
                    )
                row = row or _insert_alias(session, tenant, kind, series_id, alias_id, number)
                if current != number:
                    _move(session, row, current, number)
                return json.dumps([row.number, row.update_us])

            made = once(session, tenant=tenant, method=method, request_id=request_id, body=body, effect=effect)
        moved_to, update_us = json.loads(made)
        return Alias(
            name=alias_name(kind, series_id, alias_id),
            version=version_name(kind, series_id, moved_to),
            update_us=update_us,
        )

    def get(self, tenant: str, name: str) -> Alias:
        """Where an alias stands.

        Raises:
            InvalidArgument: BAD_NAME.
            NotFound: DATASET_NOT_FOUND, MODEL_NOT_FOUND or ALIAS_NOT_FOUND.
        """
        kind, series_id, alias_id = parse_alias(name, field="name")
        with self._database.snapshot() as session:
            find_series(session, tenant, kind, series_id, field="name")
            return _alias(find_alias(session, tenant, kind, series_id, alias_id, field="name"))

    def list_aliases(self, tenant: str, parent: str, page: PageRequest) -> tuple[list[Alias], str]:
        """A page of the aliases of a data set or model by id, and the next page's token.

        Raises:
            InvalidArgument: BAD_NAME, BAD_PAGE_TOKEN or BAD_VALUE.
            NotFound: DATASET_NOT_FOUND or MODEL_NOT_FOUND.
        """
        kind = Kind.of(parent, field="parent")
        series_id = parse_series(parent, kind, field="parent")
        query = select(AliasRow).where(
            AliasRow.tenant == tenant, AliasRow.kind == kind.value, AliasRow.series_id == series_id
        )
        with self._database.snapshot() as session:
            find_series(session, tenant, kind, series_id, field="parent")
            rows, token = fetch_page(session, query, AliasRow.alias_id, page, scope=f"{parent}/aliases")
            return [_alias(row) for row in rows], token

    def history(self, tenant: str, name: str, page: PageRequest) -> tuple[list[AliasMove], str]:
        """A page of the moves of an alias, newest first, and the next page's token.

        Raises:
            InvalidArgument: BAD_NAME, BAD_PAGE_TOKEN or BAD_VALUE.
            NotFound: DATASET_NOT_FOUND, MODEL_NOT_FOUND or ALIAS_NOT_FOUND.
        """
        kind, series_id, alias_id = parse_alias(name, field="name")
        query = select(AliasMoveRow).where(
            AliasMoveRow.tenant == tenant,
            AliasMoveRow.kind == kind.value,
            AliasMoveRow.series_id == series_id,
            AliasMoveRow.alias_id == alias_id,
        )
        with self._database.snapshot() as session:
            find_series(session, tenant, kind, series_id, field="name")
            find_alias(session, tenant, kind, series_id, alias_id, field="name")
            rows, token = fetch_page(session, query, AliasMoveRow.move, page, scope=f"{name}/moves", descending=True)
            moves = [
                AliasMove(
                    from_version=version_name(kind, series_id, row.from_number) if row.from_number else "",
                    to_version=version_name(kind, series_id, row.to_number),
                    time_us=row.time_us,
                )
                for row in rows
            ]
            return moves, token


def _number_in(version: str, kind: Kind, series_id: str, *, field: str) -> int:
    """Number of a version that must belong to the given series."""
    version_kind, version_series_id, number = parse_version(version, field=field)
    if (version_kind, version_series_id) != (kind, series_id):
        raise InvalidArgument("BAD_NAME", f"{version!r} is no version of {series_name(kind, series_id)!r}", field=field)
    return number


def _insert_alias(session: Session, tenant: str, kind: Kind, series_id: str, alias_id: str, number: int) -> AliasRow:
    row = AliasRow(
        tenant=tenant,
        kind=kind.value,
        series_id=series_id,
        alias_id=alias_id,
        number=number,
        num_moves=0,
        update_us=now_us(),
    )
    session.add(row)
    session.flush()
    return row


def _move(session: Session, row: AliasRow, current: int | None, number: int) -> None:
    row.number = number
    row.num_moves += 1
    row.update_us = now_us()
    session.add(
        AliasMoveRow(
            tenant=row.tenant,
            kind=row.kind,
            series_id=row.series_id,
            alias_id=row.alias_id,
            move=row.num_moves,
            from_number=current,
            to_number=number,
            time_us=row.update_us,
        )
    )


def _alias(row: AliasRow) -> Alias:
    kind = Kind(row.kind)
    return Alias(
        name=alias_name(kind, row.series_id, row.alias_id),
        version=version_name(kind, row.series_id, row.number),
        update_us=row.update_us,
    )
