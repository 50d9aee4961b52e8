"""Data sets: the storage format, the encoders of field values, and the classes that feed data sets to a model.

Importing this package, or any of its modules `manifest`, `shards`, `media` and `encoders`, does not import torch. The
names in `__all__` are loaded on first access.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deepseek.data import transforms
    from deepseek.data.datasets import EncodedDataset, InputMapping
    from deepseek.data.multimodal import MultiModalDataset
    from deepseek.data.sampler import ResumableSampler
    from deepseek.data.transforms import CenterCrop, Compose, Normalize, Resize, ToTensor

__all__ = [
    "CenterCrop",
    "Compose",
    "EncodedDataset",
    "InputMapping",
    "MultiModalDataset",
    "Normalize",
    "Resize",
    "ResumableSampler",
    "ToTensor",
    "transforms",
]

_HOMES = {
    "EncodedDataset": "datasets",
    "InputMapping": "datasets",
    "MultiModalDataset": "multimodal",
    "ResumableSampler": "sampler",
    **dict.fromkeys(("CenterCrop", "Compose", "Normalize", "Resize", "ToTensor"), "transforms"),
}


def __getattr__(name: str) -> Any:
    if name == "transforms":
        return importlib.import_module("deepseek.data.transforms")
    if name in _HOMES:
        return getattr(importlib.import_module(f"deepseek.data.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
