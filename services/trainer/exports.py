"""Finished exports, by run and fingerprint. A repeated export starts no process and stores no new bytes."""

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy.orm import Session

from common.artifacts import Artifact
from common.database import Database
from services.trainer.tables import ExportRow


@dataclass(frozen=True)
class Export:
    """The result of an export: the manifest and the metrics of the exported model."""

    manifest: Artifact
    metrics: Mapping[str, float]


class ExportStore:
    """Finished exports of all tenants. Thread-safe; several processes may share the database.

    Args:
        database: Migrated database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, tenant: str, run_id: str, fingerprint: str) -> Export | None:
        """Returns the run's finished export with this fingerprint; None if there is none."""
        with self._database.snapshot() as session:
            return _find(session, tenant, run_id, fingerprint)

    def add(
        self, session: Session, tenant: str, run_id: str, fingerprint: str, export: Export, *, lost: Export | None
    ) -> Export:
        """Stores an export in the lease holder's fenced transaction, and returns the export to register.

        If an equal export has been stored already, that export is returned instead: the measurements of the new one
        differ slightly, so registering it would add a second version. Only `lost`, whose files were deleted, is
        replaced.
        """
        earlier = _find(session, tenant, run_id, fingerprint)
        if earlier and earlier != lost:
            return earlier
        row = ExportRow(tenant=tenant, run_id=run_id, fingerprint=fingerprint)
        row.manifest, row.metrics = export.manifest.to_json(), json.dumps(dict(export.metrics))
        session.merge(row)
        return export


def _find(session: Session, tenant: str, run_id: str, fingerprint: str) -> Export | None:
    row = session.get(ExportRow, (tenant, run_id, fingerprint))
    return Export(Artifact.from_json(row.manifest), json.loads(row.metrics)) if row else None
