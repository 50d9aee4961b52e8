"""Optimizers: an interface for one's own, and the built-in ones by name."""

from deepseek.optim.factories import adam, adamw, sgd
from deepseek.optim.interface import OptimizerInterface

__all__ = ["OptimizerInterface", "adam", "adamw", "sgd"]
