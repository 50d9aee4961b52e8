"""Tiny tasks for the built-in models: fields, samples and the part of a spec that names model and inputs."""

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import soundfile
from PIL import Image

from deepseek.data.manifest import Field
from deepseek.data.sample import Sample

LABELS = ("high", "low", "none")
RATE = 2000

Make = Callable[[int, str, int], list[Sample]]


@dataclass(frozen=True)
class Task:
    """A data set and the run that learns it.

    Attributes:
        fields: Fields of the data set.
        make: Makes a number of samples of a split from a seed.
        spec: What differs from the spec of `jobs.complete_spec`.
    """

    fields: tuple[Field, ...]
    make: Make
    spec: dict[str, Any]


def classify(model: str, inputs: list[dict[str, Any]], **params: Any) -> dict[str, Any]:
    """A spec whose target is the label `kind`."""
    return {
        "model": {"name": model, "params": params},
        "loss": {"name": "cross_entropy"},
        "metrics": [{"name": "accuracy"}],
        "inputs": inputs,
        "target": {"field": "kind"},
        "precision": "fp32",
    }


def samples(values: Callable[[np.random.Generator, str], dict[str, Any]]) -> Make:
    """Makes samples whose values belong to the label `kind`, in turn."""

    def make(num_samples: int, split: str, seed: int) -> list[Sample]:
        rng = np.random.default_rng(seed)
        kinds = [LABELS[i % len(LABELS)] for i in range(num_samples)]
        return [Sample(f"{split}-{i}", split, {**values(rng, kind), "kind": kind}) for i, kind in enumerate(kinds)]

    return make


def picture(rng: np.random.Generator, kind: str) -> dict[str, Any]:
    pixels = rng.integers(0, 60, (12, 12, 3), dtype=np.uint8)
    pixels[..., LABELS.index(kind)] += 180
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return {"picture": file.getvalue()}


def sound(rng: np.random.Generator, kind: str) -> dict[str, Any]:
    time = np.arange(RATE // 2) / RATE
    tone = {"high": 600.0, "low": 150.0, "none": 0.0}[kind]
    file = io.BytesIO()
    wave = 0.5 * np.sin(2 * np.pi * tone * time + rng.uniform(0, 6)) + rng.normal(0, 0.01, len(time))
    soundfile.write(file, wave.astype(np.float32), RATE, format="WAV")
    return {"clip": file.getvalue()}


def passage(rng: np.random.Generator, kind: str) -> dict[str, Any]:
    words = [*rng.choice(["one", "two", "three", "four"], 5), f"{kind}er"]
    return {"passage": " ".join(rng.permutation(words))}


def row(rng: np.random.Generator, kind: str) -> dict[str, Any]:
    return {
        "size": 1000.0 + 100 * LABELS.index(kind) + rng.normal(0, 20),
        "count": int(rng.integers(0, 5)) + 10 * (kind == "none"),
        "colour": str(rng.choice(["red", "blue"])) if kind == "low" else "green",
        "kind": kind,
    }


_STAGE = {"kernel": 3, "skip": True, "depth": 2}
_STAGES = [
    {**_STAGE, "block": "dense", "width": 4, "expansion": 1, "squeeze": False, "pooling": "max"},
    {**_STAGE, "block": "separable", "width": 8, "expansion": 2, "squeeze": True, "pooling": "average"},
    {**_STAGE, "block": "dense", "width": 8, "expansion": 2, "squeeze": False, "pooling": "stride"},
]
_LAYERS = [{"heads": 2, "mlp_ratio": 1}, {"heads": 1, "mlp_ratio": 4}]

KIND = Field("kind", "label", labels=LABELS)
_IMAGE = {"name": "image", "params": {"size": 12}}
_WORDS = {"name": "words", "params": {"length": 8, "vocabulary": 32}}
_TABLE = (
    Field("size", "number"),
    Field("count", "integer"),
    Field("colour", "label", labels=("blue", "green", "red")),
    KIND,
)
_COLUMNS = [{"field": "size"}, {"field": "count"}, {"field": "colour"}]

TASKS = {
    "cnn": Task(
        (Field("picture", "image"), KIND),
        samples(picture),
        classify("cnn", [{"field": "picture", "input": "image", "encoder": _IMAGE}], width=4),
    ),
    "resnet18": Task(
        (Field("picture", "image"), KIND),
        samples(picture),
        classify("resnet18", [{"field": "picture", "input": "image", "encoder": _IMAGE}], num_classes=3),
    ),
    "searched_cnn": Task(
        (Field("picture", "image"), KIND),
        samples(picture),
        classify(
            "searched_cnn",
            [{"field": "picture", "input": "image", "encoder": _IMAGE}],
            stem=4,
            stages=_STAGES,
            head=16,
        ),
    ),
    "searched_transformer": Task(
        (Field("passage", "text"), KIND),
        samples(passage),
        {
            "model": {"name": "searched_transformer", "params": {"width": 16, "layers": _LAYERS}},
            "inputs": [{"field": "passage", "input": "text", "encoder": _WORDS}],
            "target": {"field": "passage", "encoder": _WORDS},
            "precision": "fp32",
        },
    ),
    "audio_classifier": Task(
        (Field("clip", "audio"), KIND),
        samples(sound),
        classify(
            "audio_classifier",
            [
                {
                    "field": "clip",
                    "input": "audio",
                    "encoder": {"name": "audio", "params": {"sample_rate": RATE, "seconds": 0.5}},
                }
            ],
            width=4,
            num_mels=16,
        ),
    ),
    "text_classifier": Task(
        (Field("passage", "text"), KIND),
        samples(passage),
        classify("text_classifier", [{"field": "passage", "input": "text", "encoder": _WORDS}], width=8),
    ),
    "tabular": Task(_TABLE, samples(row), classify("tabular", _COLUMNS, width=16)),
    "tabular with factors": Task(_TABLE, samples(row), classify("tabular", _COLUMNS, width=16, factors=4)),
    "transformer_lm": Task(
        (Field("passage", "text"), KIND),
        samples(passage),
        {
            "model": {"name": "transformer_lm", "params": {"width": 16, "depth": 1, "num_heads": 2}},
            "inputs": [{"field": "passage", "input": "text", "encoder": _WORDS}],
            "target": {"field": "passage", "encoder": _WORDS},
            "precision": "fp32",
        },
    ),
}
