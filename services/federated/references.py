"""Artifacts that the coordinator refers to: each run's reference data, initial models and recipe, and its rounds.

The models of all released rounds are kept, because GetModel returns them. So are sealed models that are not released
yet: a debited round must release exactly the result for which it was debited. A state of a strategy is kept only if a
run can continue from it.
"""

from collections.abc import Iterator

from sqlalchemy import select
from sqlalchemy.orm import Session

from common.artifacts import Artifact
from common.upkeep.dump import Reference
from deepseek.data.manifest import MEDIA_TYPE as DATASET_MEDIA_TYPE
from deepseek.federated.arrays import MEDIA_TYPE as ARRAYS_MEDIA_TYPE
from deepseek.federated.rounds import RoundState
from deepseek.models.manifest import MEDIA_TYPE as MODEL_MEDIA_TYPE
from services.federated.tables import PublicationRow, RoundRow, RunRow

RECIPE_MEDIA_TYPE = "application/json"
"""Media type of references to recipes. The type in a recipe's descriptor looks like that of a manifest, which lists
other blobs."""


def references(session: Session) -> Iterator[Reference]:
    """Yields every artifact that a row in the database refers to."""
    for row in session.scalars(select(RunRow)):
        yield Reference(row.tenant, row.dataset_manifest_sha256, DATASET_MEDIA_TYPE)
        for sha256, media_type in (
            (row.init_manifest, MODEL_MEDIA_TYPE),
            (row.recipe, RECIPE_MEDIA_TYPE),
            (row.initial_model, ARRAYS_MEDIA_TYPE),
        ):
            if sha256:
                yield Reference(row.tenant, sha256, media_type)
    sealed = select(RoundRow.tenant, RoundRow.sealed_model).where(
        RoundRow.sealed_model != "", RoundRow.state != RoundState.FAILED.name
    )
    # The state after the last released round is the one from which the next round starts.
    states = (
        select(RoundRow.tenant, RoundRow.sealed_state)
        .join(RunRow, (RunRow.tenant == RoundRow.tenant) & (RunRow.run_id == RoundRow.run_id))
        .where(
            RoundRow.sealed_state != "",
            RoundRow.state != RoundState.FAILED.name,
            RoundRow.round >= RunRow.num_released,
        )
    )
    for query in (sealed, states):
        for tenant, sha256 in session.execute(query):
            yield Reference(tenant, sha256, ARRAYS_MEDIA_TYPE)
    for text in session.scalars(select(PublicationRow.manifest)):
        manifest = Artifact.from_json(text)
        yield Reference(manifest.tenant, manifest.sha256, manifest.media_type)
