"""Checkpoints and weights that a run no longer needs."""

import json
from dataclasses import dataclass

from common.artifacts import Artifact
from common.database import now_us
from services.trainer.tables import RunRow


@dataclass(frozen=True)
class Superseded:
    """A checkpoint, or the weights of an epoch, that are no longer needed by the run that wrote them.

    Attributes:
        artifact: The checkpoint or the weights.
        sequence: Sequence number of the checkpoint's event in the history of the run; 0 for weights.
        next_us: Time at which the run published their successor, UTC microseconds.
        is_needed: Whether the row of another run still refers to the checkpoint.
    """

    artifact: Artifact
    sequence: int
    next_us: int
    is_needed: bool


def replace_best(row: RunRow, best_weights: str) -> None:
    """Replaces the weights of the best epoch, and marks the previous ones for deletion."""
    if row.best_weights not in (None, best_weights):
        stale = json.loads(row.stale_weights or "[]")
        row.stale_weights = json.dumps([*stale, [row.best_weights, now_us()]])
    row.best_weights = best_weights
