"""What the benchmark of steering trains: small networks on images of digits, with correct or partly random labels."""

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from benchmarks import privacy_images
from deepseek.training import MixedPrecisionTrainer

NOISE = {"digits": 0.0, "noisy digits": 0.4}
"""Share of labels that are random, by task."""
NUM_TRAIN, NUM_VALIDATION, NUM_TEST = 3000, 1000, 2000
EPOCHS, BATCH = 25, 32

mnist = cache(privacy_images.mnist)


class Images:
    """Images of digits, with labels of which a share is random."""

    def __init__(self, split: str, indices: npt.NDArray[np.int64] | slice, noise: float = 0.0, seed: int = 0) -> None:
        images, labels = mnist(split)
        rng = np.random.default_rng(seed)
        labels = np.where(rng.random(len(labels)) < noise, rng.integers(0, 10, len(labels)), labels)
        self.images = torch.from_numpy(images[indices].reshape(-1, 784).astype(np.float32) / 255)
        self.labels = torch.from_numpy(labels[indices])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"image": self.images[index], "target": self.labels[index]}


class Network(nn.Module):
    """A network with one hidden layer."""

    def __init__(self, num_hidden: int = 64) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(784, num_hidden), nn.ReLU(), nn.Linear(num_hidden, 10))

    def forward(self, image: Tensor) -> Tensor:
        """Returns logits, float [B, 10], for images, float [B, 784]."""
        logits: Tensor = self.layers(image)
        return logits


def points(task: str, rate: float, policy: str, seed: int, epochs: int = EPOCHS) -> dict[str, Any]:
    """Trains a network; returns the arguments and the percentage of test images that it recognizes, as `points`."""
    torch.set_num_threads(1)
    order = np.random.default_rng(seed).permutation(60_000)
    train, validation = order[:NUM_TRAIN], order[NUM_TRAIN : NUM_TRAIN + NUM_VALIDATION]
    torch.manual_seed(seed)
    trainer = MixedPrecisionTrainer(
        Network(),
        "sgd",
        "fp32",
        lr=rate,
        policy=None if policy == "constant" else policy,
        seed=seed,
        metrics=["accuracy"],
    )
    trainer.fit(
        Images("train", train, NOISE[task], seed),
        epochs=epochs,
        batch_size=BATCH,
        evaluation=Images("train", validation, NOISE[task], seed),
        on_event=lambda event: None,
    )
    found = 100 * trainer.evaluate(Images("t10k", slice(NUM_TEST)), batch_size=500)["accuracy"]
    return {"task": task, "learning_rate": rate, "policy": policy, "seed": seed, "epochs": epochs, "points": found}
