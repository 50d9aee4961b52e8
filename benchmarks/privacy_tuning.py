"""Chooses the hyperparameters of `benchmarks.privacy`, and writes them to benchmarks/privacy_choices.json.

Private and plain training have the same number of candidates, which are compared on one division of MNIST's 60,000
training images into 50,000 and 10,000. The 10,000 test images, on which the benchmark measures, are not used. Run this
before the benchmark only.
"""

import json
import signal
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

import torch

from benchmarks.privacy_images import features, mnist
from benchmarks.privacy_training import PlainChoice, PrivateChoice, accuracy, train_plain, train_private

CHOICES = Path(__file__).with_name("privacy_choices.json")
EPSILONS = (3.0, 8.0)
DELTA = 1e-6
SEED = 1_000
NUM_TRAINING = 50_000

PLAIN = [
    PlainChoice(num_epochs, 256, learning_rate, weight_decay)
    for num_epochs, learning_rate, weight_decay in product((6, 12), (6.0, 20.0, 60.0), (0.0, 1e-6))
]
PRIVATE = [
    PrivateChoice(num_steps, clipping_norm, learning_rate, 0.9)
    for num_steps, clipping_norm, learning_rate in product((60, 120), (0.1, 0.5), (10.0, 20.0, 40.0))
]


def main() -> None:
    """Trains with every candidate, and stores the best ones with the accuracies of all."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    torch.set_num_threads(1)
    images, labels = mnist("train")
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(SEED))
    inputs, classes = features(images), torch.from_numpy(labels)
    training, validation = order[:NUM_TRAINING], order[NUM_TRAINING:]
    data, held_out = [(inputs[part], classes[part]) for part in (training, validation)]

    result: dict[str, Any] = {"seed": SEED, "num_candidates": len(PLAIN)}
    assert len(PLAIN) == len(PRIVATE)
    scores = [accuracy(*held_out, train_plain(*data, choice, SEED)) for choice in PLAIN]
    result["plain"] = best(PLAIN, scores)
    for epsilon in EPSILONS:
        scores = [
            accuracy(*held_out, train_private(*data, choice, epsilon=epsilon, delta=DELTA, public=NUM_TRAINING))
            for choice in PRIVATE
        ]
        result[f"epsilon_{epsilon:g}"] = best(PRIVATE, scores)
    CHOICES.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))


def best(choices: Sequence[PlainChoice | PrivateChoice], scores: Sequence[float]) -> dict[str, Any]:
    """Returns the candidate with the highest accuracy, and the accuracies of all candidates in their order."""
    number = max(range(len(scores)), key=scores.__getitem__)
    print(choices[number], scores, file=sys.stderr, flush=True)
    return {"choice": asdict(choices[number]), "accuracies": list(scores)}


if __name__ == "__main__":
    main()
