"""Small images, recordings and samples for the tests of this folder."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile

from common.errors import DataLoss
from deepseek.data.manifest import DatasetManifest, Field, Shard
from deepseek.data.sample import Sample
from deepseek.data.shards import encode_shard
from tests.harness.images import image_file

FIELDS = (
    Field("image", "image"),
    Field("question", "text", repeated=True),
    Field("answer", "label", repeated=True, labels=("no", "yes", "größer")),
)


def sound_file(num_frames: int = 400, kind: str = "WAV") -> bytes:
    """A rising tone at 8 kHz."""
    sink = io.BytesIO()
    soundfile.write(sink, np.sin(np.linspace(0, 30, num_frames) ** 2).astype(np.float32), 8000, format=kind)
    return sink.getvalue()


def question_sample(number: int = 0, split: str = "train", num_questions: int | None = None) -> Sample:
    """An image with one to three questions."""
    count = number % 3 + 1 if num_questions is None else num_questions
    values = {
        "image": image_file(number),
        "question": [f"is it number {number} or {i}?" for i in range(count)],
        "answer": [FIELDS[2].labels[(number + i) % 3] for i in range(count)],
    }
    return Sample(f"{split}/{number:04d}", split, values)


class ShardFolder:
    """Shards in memory, fetched by digest as from an artifact store."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.num_fetches = 0

    def put(self, data: bytes) -> str:
        """Keeps a blob and returns its digest."""
        import hashlib

        digest = hashlib.sha256(data).hexdigest()
        self.blobs[digest] = data
        return digest

    def fetch(self, tenant: str, sha256: str, path: Path) -> Path:
        """Writes a blob to a file."""
        if tenant != "default":
            raise DataLoss("BLOB_NOT_FOUND", "no such tenant")
        self.num_fetches += 1
        path.write_bytes(self.blobs[sha256])
        return path


def make_dataset(
    store: ShardFolder,
    counts: dict[str, int],
    fields: tuple[Field, ...] = FIELDS,
    make: Callable[[int, str], Sample] = question_sample,
    shard_size: int = 5,
) -> DatasetManifest:
    """Writes samples to a store in shards and returns their manifest."""
    splits = {}
    for split, count in counts.items():
        shards = []
        for start in range(0, count, shard_size):
            samples = [make(number, split) for number in range(start, min(count, start + shard_size))]
            data = encode_shard(samples, fields)
            shards.append(Shard(store.put(data), len(data), len(samples)))
        splits[split] = tuple(shards)
    return DatasetManifest(fields, splits)
