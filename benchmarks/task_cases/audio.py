"""Languages of spoken descriptions: recordings of tuxpaint-stamps-default, one voice per language."""

import re
import shutil
import subprocess
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.task_cases.task import PACKAGES, SCIKIT_LEARN, Score, Task, install, right_answers, served_labels

PACKAGE = "tuxpaint-stamps-default"
VERSION = "2022.06.04-1"
LANGUAGES = ("bg", "ca", "es", "fr", "ro", "ru")
EVERY = 5
"""Only every fifth recording of a language is used, to stay within five minutes."""
SPLITS = ("train", "test", "train", "validation", "train", "test", "train", "test", "train", "test")
"""Splits of the sorted recordings of a language; the sequence repeats."""


@cache
def recordings() -> Path:
    """Returns the folder with the package's files. Nothing is installed on the machine."""
    folder = PACKAGES / f"{PACKAGE}-{VERSION}"
    if not folder.exists():
        partial = folder.with_name(f"{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        subprocess.run(["apt-get", "download", "--quiet", f"{PACKAGE}={VERSION}"], cwd=partial, check=True)
        (package,) = partial.glob("*.deb")
        subprocess.run(["dpkg-deb", "--extract", package, partial], check=True)
        package.unlink()
        partial.rename(folder)
    return folder


def write(folder: Path) -> None:
    """Writes voices/<split>/<language>/<name>.ogg."""
    for language in LANGUAGES:
        found = sorted(recordings().rglob(f"*_desc_{language}.ogg"))[::EVERY]
        for number, path in enumerate(found):
            place = folder / "voices" / SPLITS[number % len(SPLITS)] / language
            place.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place / re.sub(r"[^a-z0-9_.-]", "_", f"{path.parent.name}-{path.name}".lower()))
    lines = [f"{path.relative_to(folder)},{path.parent.name}\n" for path in files(folder, "test")]
    (folder / "voices.csv").write_text("audio,language\n" + "".join(lines), encoding="utf-8")


def files(folder: Path, split: str) -> list[Path]:
    """Returns the recordings of a split."""
    return sorted((folder / "voices" / split).rglob("*.ogg"))


def score(folder: Path, outputs: Sequence[Any]) -> Score:
    """Scores the served predictions of the test split."""
    return right_answers([path.parent.name for path in files(folder, "test")], served_labels(outputs[-1]))


def baseline_score(folder: Path) -> Score:
    """Trains and scores a linear model of the mean and deviation of each mel band."""
    install(*SCIKIT_LEARN)
    import numpy as np
    import torch
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    from deepseek.data.media import decode_audio
    from deepseek.models.audio_net import LogMel

    @cache
    def log_mel(rate: int) -> LogMel:
        return LogMel(rate, 64)

    def features(path: Path) -> Any:
        values, rate = decode_audio(path.read_bytes())
        with torch.inference_mode():
            bands = log_mel(rate)(torch.from_numpy(values.mean(1))[None])[0]
        return np.concatenate([bands.mean(1), bands.std(1)])

    known, test = files(folder, "train") + files(folder, "validation"), files(folder, "test")
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    model.fit([features(path) for path in known], [path.parent.name for path in known])
    return right_answers([path.parent.name for path in test], model.predict([features(path) for path in test]).tolist())


TASK = Task(
    baseline="log-mel means and deviations + scikit-learn StandardScaler + LogisticRegression",
    commands=(
        ("dataset", "import", "voices", "voices"),
        ("train", "--task", "audio-classification", "--dataset", "voices", "--model", "voices"),
        ("model", "load", "voices"),
        ("predict", "voices", "--file", "voices.csv"),
    ),
    write=write,
    score=score,
    baseline_score=baseline_score,
)
