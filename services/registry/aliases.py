"""Aliases: movable names for versions. A move is a compare-and-swap, and every move is recorded.

Write transactions are serialized (`common.database`), so exactly one of two callers succeeds if both move an alias at
the same time and expect the same current version. The other receives an error that says where the alias points now.
Setting an alias to its current version is allowed, but not recorded as a move. If a caller repeats a move with the same
request id, e.g. because the response was lost, it receives the first response.
"""

import json

from sqlalchemy import select
from sqlalchemy.orm import Session

from common.database import Database, PageRequest, Repeatable, fetch_page, now_us, once
from common.errors import Aborted, InvalidArgument
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
    """Aliases of all tenants. Thread-safe.

    Args:
        database: Migrated database; borrowed, not closed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def set(
        self,
        tenant: str,
        name: str,
        version: str,
        expected_version: str,
        call: Repeatable,
    ) -> Alias:
        """Points an alias to a version, provided that it currently points to the version that the caller expects.

        Args:
            tenant: Tenant that owns the alias.
            name: Name of the alias.
            version: Name of a version of the same data set or model.
            expected_version: Version that the alias must currently point to; empty if the alias must not exist yet.
            call: Identity of the call, used to recognize repeats.

        Returns:
            The alias, as set by this call or by the first call with this request id.

        Raises:
            InvalidArgument: BAD_NAME or BAD_VALUE.
            NotFound: The data set, the model or the version does not exist.
            AlreadyExists: REQUEST_ID_REUSED.
            Aborted: ALIAS_MOVED if the alias does not point to `expected_version`.
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
                    stands = f"points to {version_name(kind, series_id, current)!r}" if current else "does not exist"
                    thought = repr(expected_version) if expected else "empty"
                    raise Aborted(
                        "ALIAS_MOVED",
                        f"{name!r} {stands}, but expected_version is {thought}; read the alias again",
                        field="expected_version",
                    )
                row = row or _insert_alias(session, tenant, kind, series_id, alias_id, number)
                if current != number:
                    _move(session, row, current, number)
                return json.dumps([row.number, row.update_us])

            made = once(session, tenant, call, effect)
        moved_to, update_us = json.loads(made)
        return Alias(
            name=alias_name(kind, series_id, alias_id),
            version=version_name(kind, series_id, moved_to),
            update_us=update_us,
        )

    def get(self, tenant: str, name: str) -> Alias:
        """Returns an alias.

        Raises:
            InvalidArgument: BAD_NAME.
            NotFound: DATASET_NOT_FOUND, MODEL_NOT_FOUND or ALIAS_NOT_FOUND.
        """
        kind, series_id, alias_id = parse_alias(name, field="name")
        with self._database.snapshot() as session:
            find_series(session, tenant, kind, series_id, field="name")
            return _alias(find_alias(session, tenant, kind, series_id, alias_id, field="name"))

    def list_aliases(self, tenant: str, parent: str, page: PageRequest) -> tuple[list[Alias], str]:
        """Returns a page of the aliases of a data set or model, ordered by id, and the token of the next page.

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
            rows, token = fetch_page(session, query, (AliasRow.alias_id,), page, scope=f"{parent}/aliases")
            return [_alias(row) for row in rows], token

    def history(self, tenant: str, name: str, page: PageRequest) -> tuple[list[AliasMove], str]:
        """Returns a page of the moves of an alias, newest first, and the token of the next page.

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
            rows, token = fetch_page(session, query, (AliasMoveRow.move,), page, scope=f"{name}/moves", descending=True)
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
    """Returns the number of a version; raises InvalidArgument if the version does not belong to the series."""
    version_kind, version_series_id, number = parse_version(version, field=field)
    if (version_kind, version_series_id) != (kind, series_id):
        raise InvalidArgument(
            "BAD_NAME", f"{version!r} is not a version of {series_name(kind, series_id)!r}", field=field
        )
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
