"""A training run, as read from its row and its job."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from common.artifacts import Artifact
from common.jobs import Job
from deepseek.privacy.releases import Release
from deepseek.trainjob.runspec import RunSpec
from services.trainer.tables import RunRow


@dataclass(frozen=True)
class Run:
    """A training run. The proto message `deepseek.trainer.v1.Run` documents the attributes.

    `noise_multiplier` is None unless the run is private. `parameters` is None unless the run is external. An external
    run has an empty spec and no checkpoints.
    """

    tenant: str
    run_id: str
    spec: RunSpec
    dataset_manifest_sha256: str
    job: Job
    fingerprint: str
    checkpoint: Artifact | None
    checkpoint_step: int
    metrics: Mapping[str, float]
    train_s: float
    num_threads: int | None
    exportable: bool
    best_step: int
    best_epoch: int
    best_weights: Artifact | None
    init_manifest: str | None
    display_name: str
    note: str
    tags: Mapping[str, str]
    parameters: Mapping[str, Any] | None
    noise_multiplier: float | None

    @property
    def name(self) -> str:
        """Resource name, `runs/<id>`."""
        return f"runs/{self.run_id}"

    @property
    def executed_spec(self) -> RunSpec:
        """The spec that workers execute: with a noise multiplier in place of an epsilon to aim at."""
        return self.spec.with_noise(self.noise_multiplier)

    @property
    def release(self) -> Release | None:
        """What a private run is debited for all of its steps; None without `privacy`."""
        privacy = self.executed_spec.privacy
        return privacy.release(self.spec.epochs) if privacy else None

    @property
    def trained(self) -> Artifact | None:
        """The weights of the best epoch; the last checkpoint if the run records no best epoch."""
        return self.best_weights if self.best_step and self.best_weights else self.checkpoint

    @property
    def is_external(self) -> bool:
        """Whether a program outside the mesh executes the run."""
        return self.parameters is not None


def read_run(row: RunRow, job: Job) -> Run:
    """Returns the run of a row, whose job must have been read in the same snapshot."""
    spec = RunSpec.from_json(json.loads(row.spec))
    # Rows without the column state the noise in their spec.
    stated = spec.privacy.noise_multiplier if spec.privacy else None
    return Run(
        tenant=row.tenant,
        run_id=row.run_id,
        spec=spec,
        dataset_manifest_sha256=row.dataset_manifest_sha256,
        job=job,
        fingerprint=row.fingerprint,
        checkpoint=Artifact.from_json(row.checkpoint) if row.checkpoint else None,
        checkpoint_step=row.checkpoint_step,
        metrics=json.loads(row.metrics),
        train_s=row.train_s,
        num_threads=row.num_threads,
        exportable=bool(row.exportable),
        best_step=row.best_step or 0,
        best_epoch=row.best_epoch or 0,
        best_weights=Artifact.from_json(row.best_weights) if row.best_weights else None,
        init_manifest=row.init_manifest,
        display_name=row.display_name or "",
        note=row.note or "",
        tags=json.loads(row.tags or "{}"),
        parameters=json.loads(row.parameters) if row.parameters else None,
        noise_multiplier=stated if row.noise_multiplier is None else row.noise_multiplier,
    )
