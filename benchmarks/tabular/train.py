"""Trains all configurations of the tabular benchmark, and writes their curves to benchmarks/tabular/curves.json.

Each configuration trains once, on one thread, on 3,000 of MNIST's training images, and is validated on 2,000 others.
Grid, images, seed and number of epochs are fixed below. An interrupted run resumes.
"""

import signal
import sys

import torch
from rich.progress import track

from benchmarks.privacy_images import PACKAGE, mnist
from benchmarks.report import Rounds, progress_file, provenance
from benchmarks.tabular.network import learning_curve, pixels
from benchmarks.tabular.table import CURVES, configurations, key_of, write_table

SPACE: dict[str, tuple[float, ...]] = {
    "learning_rate": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
    "momentum": (0.0, 0.9),
    "batch_size": (64, 256),
    "weight_decay": (1e-5, 1e-3),
    "width": (16, 48, 144),
    "depth": (1, 3),
}
NUM_TRAINING, NUM_VALIDATION = 3_000, 2_000
NUM_EPOCHS = 16
SEED = 0


def main() -> None:
    """Trains the configurations that are missing from the progress file, and writes all curves."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    torch.set_num_threads(1)
    images, labels = mnist("train")
    parts = slice(NUM_TRAINING), slice(NUM_TRAINING, NUM_TRAINING + NUM_VALIDATION)
    training, validation = [(pixels(images[part]), torch.from_numpy(labels[part])) for part in parts]
    where = provenance()
    progress = progress_file("tuner", where, "tabular")
    rounds = Rounds(progress)
    curves = []
    for configuration in track(list(configurations(SPACE)), "configurations", transient=True):
        record = rounds.measure(
            key_of(configuration),
            0,
            lambda configuration=configuration: learning_curve(
                configuration, training, validation, num_epochs=NUM_EPOCHS, seed=SEED
            ),
        )
        curves.append({name: record[name] for name in ("num_right", "loss", "seconds")})
    about = {
        "num_epochs": NUM_EPOCHS,
        "num_training": NUM_TRAINING,
        "num_validation": NUM_VALIDATION,
        "images": PACKAGE,
        "seed": SEED,
        "torch": torch.__version__,
        **where,
    }
    write_table(CURVES, about, SPACE, curves)
    progress.unlink()


if __name__ == "__main__":
    main()
