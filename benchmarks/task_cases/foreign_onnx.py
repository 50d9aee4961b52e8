"""Types of files by Google's Magika 1.0.3, an ONNX model with 214 classes and no labels, on files of known types."""

import importlib.util
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.task_cases.task import Score, Task, install, right_answers, served_labels

MAGIKA = "magika==1.0.3"
TYPES = {
    ".css": "css",
    ".csv": "csv",
    ".gz": "gzip",
    ".html": "html",
    ".js": "javascript",
    ".json": "json",
    ".md": "markdown",
    ".npy": "npy",
    ".pdf": "pdf",
    ".png": "png",
    ".py": "python",
    ".so": "elf",
    ".svg": "svg",
    ".ttf": "ttf",
    ".txt": "txt",
}
"""File extensions, each with Magika's name of the file type."""
MAX_FILES_PER_TYPE = 12
PACKAGES = ("matplotlib", "numpy", "torch")
"""Installed packages that contain the files."""
_SIZES = range(64, 1 << 20)
_BLOCK, _HALF, _PADDING = 4096, 1024, 256


def files() -> list[Path]:
    """Returns evenly spaced files of each type, chosen by paths that are the same in every installation."""
    found: list[Path] = []
    for extension in TYPES:
        known: list[Path] = []
        for package in PACKAGES:
            spec = importlib.util.find_spec(package)
            assert spec is not None
            assert spec.origin is not None
            paths = sorted(Path(spec.origin).parent.rglob(f"*{extension}"))
            known += [path for path in paths if path.stat().st_size in _SIZES]
        found += known[:: -(-len(known) // MAX_FILES_PER_TYPE) or 1]
    return found


def features(data: bytes) -> list[int]:
    """Returns Magika's input for a file: its first and last 1024 bytes without white space at the ends, padded."""
    first, last = data[:_BLOCK].lstrip()[:_HALF], data[-_BLOCK:].rstrip()[-_HALF:]
    return [*first, *[_PADDING] * (2 * _HALF - len(first) - len(last)), *last]


def write(folder: Path) -> None:
    """Writes the model, the names of its classes, and a table of the files' bytes."""
    (model,) = (install(MAGIKA) / "magika" / "models").glob("*/model.onnx")
    classes = json.loads((model.parent / "config.min.json").read_text(encoding="utf-8"))["target_labels_space"]
    (folder / "magika.onnx").write_bytes(model.read_bytes())
    (folder / "labels.txt").write_text("\n".join(classes) + "\n", encoding="utf-8")
    rows = [{"name": path.name, "bytes": features(path.read_bytes())} for path in files()]
    (folder / "files.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def score(folder: Path, outputs: Sequence[Any]) -> Score:
    """Scores the served answers: a file has the type that its extension states."""
    return right_answers([TYPES[path.suffix] for path in files()], served_labels(outputs[-1]))


def baseline_score(folder: Path) -> Score:
    """Scores the answers of Magika's own package, which reads the files itself."""
    install(MAGIKA)
    from magika import Magika

    found = [str(result.prediction.dl.label) for result in Magika().identify_paths(files())]
    return right_answers([TYPES[path.suffix] for path in files()], found)


TASK = Task(
    baseline="Magika's own package",
    commands=(
        ("model", "import", "filetypes", "magika.onnx", "--labels", "labels.txt", "--license", "Apache-2.0"),
        ("model", "load", "filetypes"),
        ("predict", "filetypes", "--file", "files.jsonl"),
    ),
    write=write,
    score=score,
    baseline_score=baseline_score,
)
