"""Deletes versions, data sets, models and aliases that nothing uses.

A version is in use if an alias points at it, or if another version was made from it. A deletion removes only rows: the
files of a version become garbage. Watermarks keep the names of deleted versions, because no name is used twice.
"""

from collections.abc import Callable, Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from common.database import Database, Repeatable, now_us, once
from common.errors import FailedPrecondition, InvalidArgument
from services.registry.resolve import find_alias, find_series, find_version
from services.registry.resources import (
    Kind,
    VersionReference,
    alias_name,
    parse_alias,
    parse_series,
    parse_version,
    series_name,
    version_name,
)
from services.registry.tables import AliasMoveRow, AliasRow, GuaranteeRow, LineageRow, MetricRow, VersionRow

_MAX_NAMED = 5
_NAMES_PER_QUERY = 500


class Deletions:
    """Deletes resources of all tenants. Thread-safe.

    A deletion that is repeated under the same request id succeeds without effect. Every method raises AlreadyExists
    (REQUEST_ID_REUSED) if the id belongs to another request.

    Args:
        database: Migrated database; borrowed, not closed.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def delete_version(self, tenant: str, kind: Kind, name: str, call: Repeatable) -> None:
        """Deletes a version.

        Raises:
            InvalidArgument: BAD_NAME, also for an alias or `latest`.
            NotFound: The data set, the model or the version does not exist.
            FailedPrecondition: VERSION_IN_USE.
        """
        found_kind, series_id, number = parse_version(name, field="name")
        if found_kind is not kind:
            raise InvalidArgument("BAD_NAME", f"{name!r} is not a version of a {kind.title}", field="name")
        reference = VersionReference(kind, series_id, number=number)

        def effect(session: Session) -> None:
            row = find_version(session, tenant, reference, field="name")
            _delete_versions(session, tenant, kind, row.series_id, [row.number])

        self._once(tenant, call, effect)

    def delete_series(self, tenant: str, kind: Kind, name: str, call: Repeatable) -> None:
        """Deletes a data set or model with all its versions.

        Raises:
            InvalidArgument: BAD_NAME.
            NotFound: DATASET_NOT_FOUND or MODEL_NOT_FOUND.
            FailedPrecondition: VERSION_IN_USE.
        """
        series_id = parse_series(name, kind, field="name")

        def effect(session: Session) -> None:
            series = find_series(session, tenant, kind, series_id, field="name")
            numbers = select(VersionRow.number).where(
                VersionRow.tenant == tenant, VersionRow.kind == kind.value, VersionRow.series_id == series_id
            )
            _delete_versions(session, tenant, kind, series_id, session.scalars(numbers).all())
            series.delete_us = now_us()

        self._once(tenant, call, effect)

    def delete_alias(self, tenant: str, name: str, call: Repeatable) -> None:
        """Deletes an alias and the history of its moves.

        Raises:
            InvalidArgument: BAD_NAME.
            NotFound: DATASET_NOT_FOUND, MODEL_NOT_FOUND or ALIAS_NOT_FOUND.
        """
        kind, series_id, alias_id = parse_alias(name, field="name")

        def effect(session: Session) -> None:
            find_series(session, tenant, kind, series_id, field="name")
            row = find_alias(session, tenant, kind, series_id, alias_id, field="name")
            key = (tenant, kind.value, series_id, alias_id)
            columns = (AliasMoveRow.tenant, AliasMoveRow.kind, AliasMoveRow.series_id, AliasMoveRow.alias_id)
            session.execute(
                delete(AliasMoveRow).where(*(column == value for column, value in zip(columns, key, strict=True)))
            )
            session.delete(row)

        self._once(tenant, call, effect)

    def _once(self, tenant: str, call: Repeatable, effect: Callable[[Session], None]) -> None:
        def answered() -> str:
            effect(session)
            return "deleted"

        with self._database.transaction() as session:
            once(session, tenant, call, answered)


def _delete_versions(session: Session, tenant: str, kind: Kind, series_id: str, numbers: Sequence[int]) -> None:
    """Deletes versions of a series, unless something else uses one of them."""
    names = {version_name(kind, series_id, number): number for number in numbers}
    for start in range(0, len(numbers), _NAMES_PER_QUERY):
        some = list(names)[start : start + _NAMES_PER_QUERY]
        if uses := _uses(session, tenant, kind, series_id, some, names):
            shown = "; ".join(uses[:_MAX_NAMED]) + (f"; and {len(uses) - _MAX_NAMED} more" * (len(uses) > _MAX_NAMED))
            what = next(iter(names)) if len(names) == 1 else series_name(kind, series_id)
            message = f"{what!r} is in use: {shown}. Move or delete these first"
            raise FailedPrecondition("VERSION_IN_USE", message, field="name")
    for start in range(0, len(numbers), _NAMES_PER_QUERY):
        some = list(names)[start : start + _NAMES_PER_QUERY]
        session.execute(delete(LineageRow).where(LineageRow.tenant == tenant, LineageRow.target.in_(some)))
        for table in (MetricRow, GuaranteeRow, VersionRow):
            session.execute(
                delete(table).where(
                    table.tenant == tenant,
                    table.kind == kind.value,
                    table.series_id == series_id,
                    table.number.in_([names[name] for name in some]),
                )
            )


def _uses(
    session: Session, tenant: str, kind: Kind, series_id: str, some: Sequence[str], deleted: dict[str, int]
) -> list[str]:
    """Returns how versions are used by anything that is not deleted together with them."""
    aliases = select(AliasRow).where(
        AliasRow.tenant == tenant,
        AliasRow.kind == kind.value,
        AliasRow.series_id == series_id,
        AliasRow.number.in_([deleted[name] for name in some]),
    )
    children = select(LineageRow).where(LineageRow.tenant == tenant, LineageRow.source.in_(some))
    return [
        *(
            f"the alias {alias_name(kind, series_id, row.alias_id)!r} points at version {row.number}"
            for row in session.scalars(aliases.order_by(AliasRow.alias_id))
        ),
        *(
            f"{row.target!r} was made from {row.source!r}"
            for row in session.scalars(children.order_by(LineageRow.target))
            if row.target not in deleted
        ),
    ]
