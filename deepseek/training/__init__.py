"""Training: the mixed-precision loop and its parts. The submodules `runspec` and `events` import no torch."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepseek.training.events import CheckpointEvent, EvaluationEvent, Event, PrecisionEvent, StepEvent
    from deepseek.training.trainer import FitResult, MixedPrecisionTrainer

__all__ = [
    "CheckpointEvent",
    "EvaluationEvent",
    "Event",
    "FitResult",
    "MixedPrecisionTrainer",
    "PrecisionEvent",
    "StepEvent",
]


def __getattr__(name: str) -> Any:
    if name in __all__:
        module = "trainer" if name in ("FitResult", "MixedPrecisionTrainer") else "events"
        return getattr(importlib.import_module(f"deepseek.training.{module}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
