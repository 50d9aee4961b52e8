"""From a parsed name to the row it stands for, inside the caller's transaction."""

from sqlalchemy.orm import Session

from common.errors import NotFound
from services.registry.resources import Kind, VersionReference, alias_name, series_name, version_name
from services.registry.tables import AliasRow, SeriesRow, VersionRow


def find_series(session: Session, tenant: str, kind: Kind, series_id: str, *, field: str) -> SeriesRow:
    """The row of a data set or model.

    Raises:
        NotFound: DATASET_NOT_FOUND or MODEL_NOT_FOUND.
    """
    row = session.get(SeriesRow, (tenant, kind.value, series_id))
    if row is None:
        name = series_name(kind, series_id)
        raise NotFound(f"{kind.name}_NOT_FOUND", f"the {kind.title} {name!r} does not exist", field=field)
    return row


def find_version(session: Session, tenant: str, reference: VersionReference, *, field: str) -> VersionRow:
    """The row of a version that is named by number, as the latest or by an alias.

    Raises:
        NotFound: DATASET_NOT_FOUND, MODEL_NOT_FOUND, DATASET_VERSION_NOT_FOUND, MODEL_VERSION_NOT_FOUND or
            ALIAS_NOT_FOUND.
    """
    kind, series_id = reference.kind, reference.series_id
    series = find_series(session, tenant, kind, series_id, field=field)
    if reference.number is not None:
        number = reference.number
    elif reference.alias_id is not None:
        number = find_alias(session, tenant, kind, series_id, reference.alias_id, field=field).number
    else:
        number = series.num_versions
    row = session.get(VersionRow, (tenant, kind.value, series_id, number))
    if row is None:
        what = f"{version_name(kind, series_id, number)!r} does not exist"
        have = f"it has versions 1 to {series.num_versions}" if series.num_versions else "it has no versions yet"
        raise NotFound(f"{kind.name}_VERSION_NOT_FOUND", f"{what}; {have}", field=field)
    return row


def find_alias(session: Session, tenant: str, kind: Kind, series_id: str, alias_id: str, *, field: str) -> AliasRow:
    """The row of an alias.

    Raises:
        NotFound: ALIAS_NOT_FOUND.
    """
    row = session.get(AliasRow, (tenant, kind.value, series_id, alias_id))
    if row is None:
        name = alias_name(kind, series_id, alias_id)
        raise NotFound("ALIAS_NOT_FOUND", f"{name!r} does not exist; SetAlias makes it", field=field)
    return row
