"""Two tiny tasks, and how their data gets into a mesh without an ingest service."""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import grpc
import numpy as np
from PIL import Image

from common.artifacts import open_store
from common.artifacts.proto import to_proto
from deepseek.data.manifest import MEDIA_TYPE, DatasetManifest, Field, Shard
from deepseek.data.sample import Sample
from deepseek.data.shards import SHARD_MEDIA_TYPE, encode_shard
from protos.registry.v1 import registry_pb2, registry_pb2_grpc

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 30), "blue": (30, 30, 220)}
PICTURE_FIELDS = (
    Field("picture", "image"),
    Field("asked", "text", repeated=True),
    Field("said", "label", repeated=True, labels=("blue", "green", "no", "red", "yes")),
)
TEXT_FIELDS = (Field("passage", "text"),)


def pictures(num_train: int = 48, num_test: int = 16) -> list[Sample]:
    """Pictures of one colour with noise, and one or two questions about it."""
    rng = np.random.default_rng(0)
    samples = []
    for i in range(num_train + num_test):
        name = list(COLOURS)[i % 3]
        pixels = np.clip(np.array(COLOURS[name]) + rng.normal(0, 20, (16, 16, 3)), 0, 255).astype(np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        asked, said = ["which colour is it"], [name]
        if i % 2:
            asked.append("is it red")
            said.append("yes" if name == "red" else "no")
        split = "train" if i < num_train else "test"
        samples.append(Sample(f"{i:04d}", split, {"picture": file.getvalue(), "asked": asked, "said": said}))
    return samples


def passages(text: str, length: int = 32) -> list[Sample]:
    """A text cut into pieces; every eighth is for testing."""
    pieces = [text[i : i + length] for i in range(0, len(text) - length, length)]
    return [Sample(f"{i:05d}", "train" if i % 8 else "test", {"passage": piece}) for i, piece in enumerate(pieces)]


def add_dataset(
    registry: grpc.Channel, store: Path, dataset_id: str, fields: Sequence[Field], samples: Sequence[Sample]
) -> str:
    """Stores samples as a data set version, a shard a split, and registers it; returns its name."""
    blobs = open_store(f"file://{store}")
    splits = {}
    for split in sorted({sample.split for sample in samples}):
        rows = [sample for sample in samples if sample.split == split]
        shard = blobs.put("default", encode_shard(rows, fields), SHARD_MEDIA_TYPE)
        splits[split] = (Shard(shard.sha256, shard.size_bytes, len(rows)),)
    manifest = blobs.put("default", DatasetManifest(tuple(fields), splits).to_bytes(), MEDIA_TYPE)
    request = registry_pb2.CreateDatasetVersionRequest(
        parent=f"datasets/{dataset_id}", manifest=to_proto(manifest), num_samples=len(samples)
    )
    stub = registry_pb2_grpc.RegistryServiceStub(registry)
    name: str = stub.CreateDatasetVersion(request).dataset_version.name
    return name


def picture_spec(dataset_version: str, /, **changes: Any) -> dict[str, Any]:
    """A run that learns the pictures in a second or two."""
    return {
        "dataset_version": dataset_version,
        "model": {"name": "image_question", "params": {"num_classes": 5, "width": 4, "features": 16}},
        "optimizer": {"name": "adamw", "params": {"lr": 0.02}},
        "schedule": {"name": "one_cycle"},
        "metrics": [{"name": "accuracy"}],
        "inputs": [
            {
                "field": "picture",
                "input": "image",
                "encoder": {"name": "image", "params": {"size": 16}},
                "augmentations": [{"name": "random_flip"}],
            },
            {"field": "asked", "input": "question", "encoder": {"name": "words", "params": {"length": 6}}},
        ],
        "target": {"field": "said"},
        "epochs": 20,
        "batch_size": 16,
        "num_workers": 2,
        "seed": 3,
        **changes,
    }


def text_spec(dataset_version: str, /, **changes: Any) -> dict[str, Any]:
    """A run that learns to go on with a text."""
    characters = {"name": "characters", "params": {"length": 32, "vocabulary": 96}}
    return {
        "dataset_version": dataset_version,
        "model": {"name": "character_lm", "params": {"vocabulary": 96, "width": 32, "depth": 1, "num_heads": 2}},
        "loss": {"name": "next_token_cross_entropy"},
        "optimizer": {"name": "adamw", "params": {"lr": 0.01}},
        "metrics": [{"name": "next_token_accuracy"}, {"name": "perplexity"}],
        "inputs": [{"field": "passage", "input": "text", "encoder": characters}],
        "target": {"field": "passage", "encoder": characters},
        "epochs": 3,
        "batch_size": 32,
        **changes,
    }
