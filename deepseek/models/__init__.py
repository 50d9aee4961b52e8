"""Models, and the manifest of a trained one.

Importing this package or `deepseek.models.manifest` does not import torch; the models are loaded when they are first
asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepseek.models.character_transformer import character_lm
    from deepseek.models.image_question_net import image_question
    from deepseek.models.resnet import resnet50

__all__ = ["character_lm", "image_question", "resnet50"]

_HOMES = {"character_lm": "character_transformer", "image_question": "image_question_net", "resnet50": "resnet"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"deepseek.models.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
