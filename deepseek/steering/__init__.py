"""Policies that adjust the learning rate and the momentum of a running training.

A policy sees the figures of the training so far, and returns new values. `deepseek.training` applies them. This package
does not import torch, so policies can run in small processes of their own.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepseek.steering.policy import Adjustment, Observation, Policy

__all__ = ["Adjustment", "Observation", "Policy"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(importlib.import_module("deepseek.steering.policy"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
