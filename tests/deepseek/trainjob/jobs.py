"""Job files over a tiny data set, as the trainer service writes them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from common.artifacts import open_store
from deepseek.data.manifest import MEDIA_TYPE, DatasetManifest, Field, Shard
from deepseek.data.shards import SHARD_MEDIA_TYPE, Sample, encode_shard
from deepseek.trainjob.runspec import RunSpec

FIELDS = (Field("line", "text"),)


def lines(num_samples: int, split: str, seed: int) -> list[Sample]:
    """Lines that count on from a random letter."""
    starts = np.random.default_rng(seed).integers(0, 20, num_samples)
    return [
        Sample(f"{split}-{i}", split, {"line": "".join(chr(97 + (start + j) % 26) for j in range(6))})
        for i, start in enumerate(starts)
    ]


def write_job(
    folder: Path,
    *,
    name: str = "job",
    spec: dict[str, Any] | None = None,
    fields: tuple[Field, ...] = FIELDS,
    make: Callable[[int, str, int], list[Sample]] = lines,
    **options: Any,
) -> Path:
    """Stores a data set in `folder`/store and writes `folder`/`name`/job.json; returns its path.

    The samples are what `make` returns for a number of samples, a split and a seed.
    """
    url = f"file://{folder / 'store'}"
    store = open_store(url)
    splits = {}
    for split, samples in (("train", make(40, "train", 1)), ("test", make(12, "test", 2))):
        shard = store.put("default", encode_shard(samples, fields), SHARD_MEDIA_TYPE)
        splits[split] = (Shard(shard.sha256, shard.size_bytes, len(samples)),)
    manifest = DatasetManifest(fields, splits)
    artifact = store.put("default", manifest.to_bytes(), MEDIA_TYPE)
    directory = folder / name
    directory.mkdir()
    job = {
        "spec": complete_spec(manifest, spec or {}).to_json(),
        "dataset_manifest_sha256": artifact.sha256,
        "tenant": "default",
        "store_url": url,
        "store_access_key_file": None,
        "store_secret_key_file": None,
        "checkpoint_sha256": None,
        "attempt": 1,
        "dir": str(directory),
        **options,
    }
    path = directory / "job.json"
    path.write_text(json.dumps(job))
    return path


def complete_spec(manifest: DatasetManifest, changes: dict[str, Any]) -> RunSpec:
    """A spec that predicts the next letter."""
    characters = {"name": "characters", "params": {"length": 6, "vocabulary": 32}}
    spec = {
        "dataset_version": "datasets/lines/versions/1",
        "model": {"name": "character_lm", "params": {"vocabulary": 32, "width": 16, "depth": 1, "num_heads": 2}},
        "loss": {"name": "next_token_cross_entropy"},
        "optimizer": {"name": "adamw", "params": {"lr": 0.01}},
        "metrics": [{"name": "next_token_accuracy"}],
        "inputs": [{"field": "line", "input": "text", "encoder": characters}],
        "target": {"field": "line", "encoder": characters},
        "epochs": 12,
        "batch_size": 8,
        "checkpoint_interval_s": 0.001,
        **changes,
    }
    return RunSpec.from_json(spec).resolved("datasets/lines/versions/1", manifest)


def events(path: Path) -> list[dict[str, Any]]:
    """What was reported beside a job file so far, whole lines."""
    file = path.parent / "events.jsonl"
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
