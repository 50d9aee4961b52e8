"""Brings back the weights and the optimizer's state of a checkpoint that rank 0 finds, on every rank."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from common.errors import ERROR_CLASSES, FailedPrecondition, MeshError
from deepseek.training import checkpoint as checkpoints
from deepseek.training.parallel import Ranks
from deepseek.training.step import TrainingStep


def restore(step: TrainingStep, ranks: Ranks, find: Callable[[], Path]) -> int:
    """Restores a checkpoint. Every rank must call this function.

    Args:
        step: Training step.
        ranks: The processes that train together.
        find: Function that returns the file of the checkpoint, which this function deletes; called on rank 0.

    Returns:
        Number of steps of the checkpoint.

    Raises:
        FailedPrecondition: `find` raised this error on rank 0, or CHECKPOINT_FAILED. The training is as it was.
    """
    found: dict[str, Any] = {}
    if ranks.rank == 0:
        try:
            found = {"path": str(find())}
        except FailedPrecondition as error:
            found = to_json(error)
    found = ranks.share(found)
    raise_shared(found if "reason" in found else None)
    path = Path(found["path"])
    try:
        state = checkpoints.read(path)
        step.restore(state)
    except MeshError as error:
        raise FailedPrecondition("CHECKPOINT_FAILED", f"the checkpoint cannot be read: {error}") from error
    finally:
        ranks.share(None)  # all ranks have read it
        if ranks.rank == 0:
            path.unlink(missing_ok=True)
    return int(state.get("step") or 0)


def to_json(error: MeshError) -> dict[str, Any]:
    """Returns an error as JSON values, for the other ranks or for an event."""
    return {"code": error.code, "reason": error.reason, "message": error.message, "field": error.field}


def raise_shared(failure: Mapping[str, Any] | None) -> None:
    """Raises an error that `to_json` has returned; does nothing without one."""
    if failure:
        kind = ERROR_CLASSES.get(failure["code"], FailedPrecondition)
        raise kind(failure["reason"], failure["message"], field=failure["field"])
