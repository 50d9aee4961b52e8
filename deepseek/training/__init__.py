"""The training library: the mixed-precision trainer and its parts.

`deepseek.trainjob` runs training as a job of the trainer service. This package does not depend on `deepseek.trainjob`.
One module is also a program: `python -m deepseek.training.step_times` prints how long a training step takes on this
host in each numeric format. The module `events` does not import torch.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepseek.training.events import (
        AdjustmentEvent,
        CheckpointEvent,
        DirectiveEvent,
        EvaluationEvent,
        Event,
        PrecisionEvent,
        StepEvent,
    )
    from deepseek.training.fit_result import FitResult
    from deepseek.training.selection import EarlyStopping
    from deepseek.training.trainer import MixedPrecisionTrainer

__all__ = [
    "AdjustmentEvent",
    "CheckpointEvent",
    "DirectiveEvent",
    "EarlyStopping",
    "EvaluationEvent",
    "Event",
    "FitResult",
    "MixedPrecisionTrainer",
    "PrecisionEvent",
    "StepEvent",
]

_MODULES = {"EarlyStopping": "selection", "FitResult": "fit_result", "MixedPrecisionTrainer": "trainer"}


def __getattr__(name: str) -> Any:
    if name in __all__:
        module = _MODULES.get(name, "events")
        return getattr(importlib.import_module(f"deepseek.training.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
