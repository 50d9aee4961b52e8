"""Optimizers: the interface for custom optimizers, and the built-in optimizers by name."""

from deepseek.optim.factories import adagrad, adam, adamw, lbfgs, nadam, radam, rmsprop, sgd
from deepseek.optim.interface import OptimizerInterface
from deepseek.optim.schedule_free import ScheduleFreeAdamW

__all__ = [
    "OptimizerInterface",
    "ScheduleFreeAdamW",
    "adagrad",
    "adam",
    "adamw",
    "lbfgs",
    "nadam",
    "radam",
    "rmsprop",
    "sgd",
]
