"""Artifacts that the trainer refers to: each run's data set, initial model, last two checkpoints and best weights, the
checkpoints that an active run restores, and the files of exports and imports that have not ended.

The history of a run also names earlier checkpoints. These are not included, because no run resumes from them. The
results of finished exports are not included either: the registry refers to those that are in use, and an export that is
repeated after its result was deleted starts again.
"""

import json
from collections.abc import Iterator

from sqlalchemy import Select, select
from sqlalchemy.orm import Session

from common.artifacts import Artifact
from common.jobs.job import UNFINISHED, JobRow
from common.upkeep.dump import Reference
from deepseek.data.manifest import MEDIA_TYPE as DATASET_MEDIA_TYPE
from deepseek.models.manifest import MEDIA_TYPE as MODEL_MEDIA_TYPE
from services.trainer.answers import restored
from services.trainer.export_job import JOB_KIND as EXPORT_KIND
from services.trainer.import_job import JOB_KIND as IMPORT_KIND
from services.trainer.import_job import ImportSpec
from services.trainer.tables import ExportRow, RunRow


def references(session: Session) -> Iterator[Reference]:
    """Yields every artifact that a row in the database refers to."""
    with_data = select(RunRow.tenant, RunRow.dataset_manifest_sha256).where(RunRow.dataset_manifest_sha256 != "")
    for tenant, dataset_manifest_sha256 in session.execute(with_data):
        yield Reference(tenant, dataset_manifest_sha256, DATASET_MEDIA_TYPE)
    with_init = select(RunRow.tenant, RunRow.init_manifest).where(RunRow.init_manifest.is_not(None))
    for tenant, init_manifest in session.execute(with_init):
        assert init_manifest is not None, "the query excludes runs without one"
        yield Reference(tenant, init_manifest, MODEL_MEDIA_TYPE)
    columns = (RunRow.checkpoint, RunRow.previous_checkpoint, RunRow.best_weights)
    checkpoints = {text for row in session.execute(select(*columns)) for text in row}
    checkpoints |= set(session.scalars(restored()))
    exported = {json.loads(text)["run_id"] for text in session.scalars(_specs(EXPORT_KIND))}
    exports = select(ExportRow.manifest).where(ExportRow.run_id.in_(exported))
    for text in (*filter(None, checkpoints), *session.scalars(exports)):
        artifact = Artifact.from_json(text)
        yield Reference(artifact.tenant, artifact.sha256, artifact.media_type)
    for text in session.scalars(_specs(IMPORT_KIND)):
        for artifact in ImportSpec.from_json(text).artifacts:
            yield Reference(artifact.tenant, artifact.sha256, artifact.media_type)


def _specs(kind: str) -> Select[str]:
    """Selects the specs of the jobs of a kind that have not ended."""
    return select(JobRow.spec).where(JobRow.kind == kind, JobRow.state.in_(UNFINISHED))
