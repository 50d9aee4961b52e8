"""Trains networks for the benchmark of architecture search, in processes of one thread each."""

import base64
import time
from dataclasses import asdict, dataclass
from itertools import product
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from benchmarks.nas_images import Augmentation, Images, divided
from benchmarks.nas_networks import build, from_json
from deepseek.training.losses import CrossEntropy
from deepseek.training.trainer import MixedPrecisionTrainer

BATCH = 64
WEIGHT_DECAY = 0.05
SHIFT = 1
"""Largest shift of an augmented image in pixels."""


@dataclass(frozen=True)
class Recipe:
    """Settings of a training.

    Attributes:
        lr: Highest learning rate of one cycle of AdamW.
        augment: Whether training images are shifted at random and, unless they show digits, flipped.
        smoothing: Label smoothing.
    """

    lr: float
    augment: bool
    smoothing: float


RECIPES = tuple(
    Recipe(lr, augment, smoothing)
    for smoothing, augment, lr in product((0.1, 0.0), (False, True), (0.006, 0.003, 0.012))
)
"""The recipes among which every network is tuned. The search trains with the first one."""


@dataclass(frozen=True)
class Size:
    """How much is trained.

    Attributes:
        data: Name of the data set.
        num_train: Number of training images.
        unit: Number of images in a unit of training.
        num_evaluated: Largest number of images on which a network is evaluated.
    """

    data: str
    num_train: int
    unit: int
    num_evaluated: int

    def extent(self, units: int) -> tuple[int, int]:
        """Returns how many images are used in a training of a number of units, and for how many epochs.

        >>> size = Size("mnist", 1000, 100, 500)
        >>> size.extent(2), size.extent(10), size.extent(20)
        ((200, 1), (1000, 1), (1000, 2))
        """
        return min(units * self.unit, self.num_train), max(1, round(units * self.unit / self.num_train))


def train(
    network: dict[str, Any], recipe: dict[str, Any], size: dict[str, Any], units: int, seed: int, part: str
) -> dict[str, Any]:
    """Trains a network; runs in a process of its own, hence the JSON forms.

    Args:
        network: JSON form of a network.
        recipe: Attributes of a `Recipe`.
        size: Attributes of a `Size`.
        units: Length of the training in units.
        seed: Seed of the weights, the order of the images and the augmentation.
        part: `validation` or `test`: the images on which the accuracy is measured.

    Returns:
        `accuracy`, `seconds`, and for the test images, `correct`: one bit per image, in base 64.
    """
    torch.set_num_threads(1)
    started = time.perf_counter()
    made, extents, parts = Recipe(**recipe), Size(**size), divided(size["data"])
    num_images, epochs = extents.extent(units)
    training = parts["train"].first(num_images)
    if made.augment:
        training = training.augmented(Augmentation(SHIFT, flip=extents.data == "fashion"))
    torch.manual_seed(seed)
    model = build(from_json(network)).to(memory_format=torch.channels_last)  # convolutions on CPUs are faster so
    trainer = MixedPrecisionTrainer(
        model,
        "adamw",
        "fp32",
        loss=CrossEntropy(made.smoothing),
        lr=made.lr,
        optimizer_params={"weight_decay": WEIGHT_DECAY},
        schedule="one_cycle",
        device="cpu",
        seed=seed,
    )
    trainer.fit(training, epochs=epochs, batch_size=BATCH, on_event=lambda event: None)
    right = correct(model, parts[part].first(extents.num_evaluated))
    found = {"accuracy": float(right.mean()), "seconds": time.perf_counter() - started}
    return {**found, "correct": packed(right)} if part == "test" else found


def correct(model: torch.nn.Module, images: Images) -> npt.NDArray[np.bool_]:
    """Returns which images a network classifies correctly."""
    model.eval()
    with torch.inference_mode():
        logits = [
            model(image=images.collate(list(range(start, min(start + 500, len(images)))))["image"])
            for start in range(0, len(images), 500)
        ]
    return np.asarray(torch.cat(logits).argmax(1).numpy() == images.labels_N)


def packed(right: npt.NDArray[np.bool_]) -> str:
    """Returns bits as text."""
    return base64.b64encode(np.packbits(right).tobytes()).decode()


def unpacked(text: str, number: int) -> npt.NDArray[np.bool_]:
    """Returns the bits of a text.

    >>> unpacked(packed(np.array([True, False, True])), 3).tolist()
    [True, False, True]
    """
    bits = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8))[:number]
    return np.asarray(bits, np.bool_)


def as_json(value: Recipe | Size) -> dict[str, Any]:
    """Returns the attributes of a recipe or a size."""
    return asdict(value)
