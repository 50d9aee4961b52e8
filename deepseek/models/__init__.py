"""The built-in models, and the manifest of a trained model version.

Importing this package or `deepseek.models.manifest` does not import torch; the models are loaded on first access.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepseek.models.audio_net import audio_classifier
    from deepseek.models.character_transformer import character_lm, transformer_lm
    from deepseek.models.convolutional_net import cnn
    from deepseek.models.image_question_net import image_question
    from deepseek.models.resnet import resnet18, resnet50
    from deepseek.models.searched_conv_net import searched_cnn
    from deepseek.models.searched_transformer_net import searched_transformer
    from deepseek.models.tabular_net import tabular
    from deepseek.models.text_net import text_classifier

__all__ = [
    "audio_classifier",
    "character_lm",
    "cnn",
    "image_question",
    "resnet18",
    "resnet50",
    "searched_cnn",
    "searched_transformer",
    "tabular",
    "text_classifier",
    "transformer_lm",
]

_HOMES = {
    "audio_classifier": "audio_net",
    "character_lm": "character_transformer",
    "cnn": "convolutional_net",
    "image_question": "image_question_net",
    "resnet18": "resnet",
    "resnet50": "resnet",
    "searched_cnn": "searched_conv_net",
    "searched_transformer": "searched_transformer_net",
    "tabular": "tabular_net",
    "text_classifier": "text_net",
    "transformer_lm": "character_transformer",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(f"deepseek.models.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
