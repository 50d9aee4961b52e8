"""Artifacts that the registry refers to: the manifest of every version."""

from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from common.upkeep.dump import Reference
from services.registry.tables import VersionRow


def references(session: Session) -> Iterator[Reference]:
    """Yields every artifact that a row in the database refers to."""
    for row in session.execute(select(VersionRow.tenant, VersionRow.sha256, VersionRow.media_type)):
        yield Reference(*row)
