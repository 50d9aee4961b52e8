"""Finds the row that a parsed name refers to, within the caller's transaction."""

from sqlalchemy import func, select
from sqlalchemy.orm import Session

from common.errors import NotFound
from services.registry.resources import Kind, VersionReference, alias_name, series_name, version_name
from services.registry.tables import AliasRow, SeriesRow, VersionRow


def find_series(session: Session, tenant: str, kind: Kind, series_id: str, *, field: str) -> SeriesRow:
    """Returns the row of a data set or model.

    Raises:
        NotFound: DATASET_NOT_FOUND or MODEL_NOT_FOUND.
    """
    row = session.get(SeriesRow, (tenant, kind.value, series_id))
    if row is None or row.delete_us is not None:
        name = series_name(kind, series_id)
        raise NotFound(f"{kind.name}_NOT_FOUND", f"the {kind.title} {name!r} does not exist", field=field)
    return row


def find_version(session: Session, tenant: str, reference: VersionReference, *, field: str) -> VersionRow:
    """Returns the row of the version that a reference points to.

    Raises:
        NotFound: DATASET_NOT_FOUND, MODEL_NOT_FOUND, DATASET_VERSION_NOT_FOUND,
            MODEL_VERSION_NOT_FOUND or ALIAS_NOT_FOUND.
    """
    kind, series_id = reference.kind, reference.series_id
    series = find_series(session, tenant, kind, series_id, field=field)
    if reference.number is not None:
        number = reference.number
    elif reference.alias_id is not None:
        number = find_alias(session, tenant, kind, series_id, reference.alias_id, field=field).number
    else:
        number = _newest(session, series) or 0
    row = session.get(VersionRow, (tenant, kind.value, series_id, number))
    if row is None:
        newest = _newest(session, series)
        what = (
            f"{version_name(kind, series_id, number)!r}" if number else f"a version of {series_name(kind, series_id)!r}"
        )
        if 0 < number <= series.num_versions:
            have = "it was deleted"
        else:
            have = f"the newest version is {newest}" if newest else "there are no versions yet"
        what += " does not exist"
        raise NotFound(f"{kind.name}_VERSION_NOT_FOUND", f"{what}; {have}", field=field)
    return row


def check_created(session: Session, tenant: str, kind: Kind, series_id: str, number: int, *, field: str) -> None:
    """Checks that a version was created at some time; it may have been deleted since.

    Raises:
        NotFound: A reason of `find_version`.
    """
    series = session.get(SeriesRow, (tenant, kind.value, series_id))
    if series is None or not 1 <= number <= series.num_versions:
        find_version(session, tenant, VersionReference(kind, series_id, number=number), field=field)


def _newest(session: Session, series: SeriesRow) -> int | None:
    """Returns the number of the newest version that was not deleted; None if there is none."""
    return session.scalar(
        select(func.max(VersionRow.number)).where(
            VersionRow.tenant == series.tenant,
            VersionRow.kind == series.kind,
            VersionRow.series_id == series.series_id,
        )
    )


def find_alias(session: Session, tenant: str, kind: Kind, series_id: str, alias_id: str, *, field: str) -> AliasRow:
    """Returns the row of an alias.

    Raises:
        NotFound: ALIAS_NOT_FOUND.
    """
    row = session.get(AliasRow, (tenant, kind.value, series_id, alias_id))
    if row is None:
        name = alias_name(kind, series_id, alias_id)
        raise NotFound("ALIAS_NOT_FOUND", f"the alias {name!r} does not exist; create it with SetAlias", field=field)
    return row
