"""The same small data set in every format that can be imported: images with captions in two splits."""

import csv
import io
import json
import tarfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import soundfile

from tests.harness.images import image_file

CLASSES = ("cat", "dog")
Picture = tuple[str, str, bytes, str]

PICTURES: list[Picture] = [
    (split, CLASSES[i % 2], image_file(i, (8, 6)), f"no. {i}") for i, split in enumerate(["train"] * 4 + ["test"] * 2)
]
"""Split, class, PNG file and caption of each sample."""


def class_folders(root: Path, pictures: Sequence[Picture]) -> Path:
    for i, (split, label, data, caption) in enumerate(pictures):
        folder = root / split / label
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{i}.png").write_bytes(data)
        (folder / f"{i}.txt").write_text(caption)
    return root


def table(root: Path, pictures: Sequence[Picture], ending: str) -> Path:
    """Writes tables whose column `image` holds paths of files beside them."""
    root.mkdir()
    for i, (_, _, data, _) in enumerate(pictures):
        (root / f"{i}.png").write_bytes(data)
    rows = [
        {"image": f"{i}.png", "label": label, "text": caption, "part": split}
        for i, (split, label, _, caption) in enumerate(pictures)
    ]
    path = root / f"pictures{ending}"
    with path.open("w", newline="") as file:
        if ending == ".jsonl":
            file.writelines(json.dumps(row) + "\n" for row in rows)
        else:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if ending == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def hugging_face(root: Path, pictures: Sequence[Picture]) -> Path:
    root.mkdir()
    features = {
        "image": {"_type": "Image"},
        "label": {"names": list(CLASSES), "_type": "ClassLabel"},
        "text": {"dtype": "string", "_type": "Value"},
    }
    for part in ("train", "test"):
        rows = [
            {"image": {"bytes": data, "path": f"{i}.png"}, "label": CLASSES.index(label), "text": caption}
            for i, (split, label, data, caption) in enumerate(pictures)
            if split == part
        ]
        found = pa.Table.from_pylist(rows)
        found = found.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
        pq.write_table(found, root / f"{part}-00000-of-00001.parquet")
    return root


def webdataset(root: Path, pictures: Sequence[Picture], ending: str = ".tar") -> Path:
    root.mkdir()
    for part in ("train", "test"):
        members = {}
        for i, (split, label, data, caption) in enumerate(pictures):
            if split == part:
                members |= {f"{i:04}.png": data, f"{i:04}.cls": label.encode(), f"{i:04}.txt": caption.encode()}
        (root / f"{part}-0000{ending}").write_bytes(tar_file(members, "w:gz" if ending.endswith("gz") else "w"))
    return root


def tar_file(members: dict[str, bytes], mode: str = "w") -> bytes:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode=mode) as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return sink.getvalue()


def sound_file(level: float = 0.5, seconds: float = 0.05, kind: str = "WAV") -> bytes:
    """Returns a tone that is clipped if the level is above 1, silent if it is 0, and empty if it lasts 0 seconds."""
    sink = io.BytesIO()
    tone = np.clip(level * np.sin(np.arange(int(8000 * seconds)) / 5), -1, 1)
    soundfile.write(sink, tone, 8000, format=kind)
    return sink.getvalue()


FORMATS: dict[str, Callable[[Path, Sequence[Picture]], Path]] = {
    "class folders": class_folders,
    "csv": lambda root, pictures: table(root, pictures, ".csv"),
    "tsv": lambda root, pictures: table(root, pictures, ".tsv"),
    "jsonl": lambda root, pictures: table(root, pictures, ".jsonl"),
    "hugging face": hugging_face,
    "webdataset": webdataset,
    "webdataset.gz": lambda root, pictures: webdataset(root, pictures, ".tar.gz"),
}
"""Functions that write the data set into a new folder, and return the place to import."""
