"""What the trainer refers to in the artifact store: data, the last two checkpoints of every run, and exports.

A run's history also names earlier checkpoints, which are dropped: no run resumes from one.
"""

from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from common.artifacts import Artifact
from common.upkeep.dump import Reference
from deepseek.data.manifest import MEDIA_TYPE as DATASET_MEDIA_TYPE
from services.trainer.tables import ExportRow, RunRow


def references(session: Session) -> Iterator[Reference]:
    """Yields every artifact that the rows refer to."""
    for tenant, dataset_manifest_sha256 in session.execute(select(RunRow.tenant, RunRow.dataset_manifest_sha256)):
        yield Reference(tenant, dataset_manifest_sha256, DATASET_MEDIA_TYPE)
    checkpoints = {
        text for row in session.execute(select(RunRow.checkpoint, RunRow.previous_checkpoint)) for text in row
    }
    for text in (*filter(None, checkpoints), *session.scalars(select(ExportRow.manifest))):
        artifact = Artifact.from_json(text)
        yield Reference(artifact.tenant, artifact.sha256, artifact.media_type)
