"""Measures how long a training step takes for three networks, with the precision `auto` and each fixed precision."""

import math
import time
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deepseek.models import resnet50
from deepseek.models.image_question_net import image_question
from deepseek.training import MixedPrecisionTrainer
from deepseek.training.precision import SlowPrecisionWarning
from deepseek.training.step_times import DTYPES

HOPELESS = 3.0
"""A precision whose steps take over this many times as long as those of the fastest is measured no further."""


class Encoder(nn.Module):
    """A transformer encoder (two layers, 256 features, four heads), a mean over positions, and a ten-class head."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(256, 4, 512, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(256, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Returns the logits [B, 10] of a float batch [B, L, 256]."""
        logits: Tensor = self.head(self.layers(x).mean(1))
        return logits


class Repeated:
    """A data set in which all samples are the same.

    Args:
        sample: Sample to repeat.
        num_samples: Size of the data set.
    """

    def __init__(self, sample: Mapping[str, Any], num_samples: int) -> None:
        self._sample = sample
        self._num_samples = num_samples

    def __len__(self) -> int:
        return self._num_samples

    def __getitem__(self, index: int) -> Mapping[str, Any]:
        return self._sample

    def shortened(self, num_samples: int) -> "Repeated":
        """Returns a data set of the given size with the same sample."""
        return Repeated(self._sample, num_samples)


def networks() -> dict[str, tuple[Callable[[], nn.Module], Repeated, int]]:
    """Returns the constructor, the data for one measurement and the batch size of each network, keyed by name."""
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8)
    questions = {"image": pixels, "question": torch.randint(0, 64, (10, 16)), "target": torch.zeros(10).long()}
    return {
        "resnet50": (resnet50, Repeated({"image": pixels, "target": 0}, 4), 2),
        "demo": (lambda: image_question(64, 13, 24, 128), Repeated(questions, 256), 32),
        "encoder": (Encoder, Repeated({"x": torch.randn(64, 256), "target": 0}, 32), 8),
    }


def epoch_s(trainer: MixedPrecisionTrainer, dataset: Repeated, batch_size: int) -> float:
    """Trains for one more epoch, and returns its duration in seconds."""
    start = time.perf_counter()
    trainer.fit(dataset, epochs=trainer.step * batch_size // len(dataset) + 1, batch_size=batch_size)
    return time.perf_counter() - start


def auto_round(num_rounds: int) -> dict[str, Any]:
    """Returns, for each network, the time per step with `auto` divided by that with the fastest fixed precision."""
    found: dict[str, Any] = {}
    for name, (make, dataset, batch_size) in networks().items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SlowPrecisionWarning)
            trainers = {p: MixedPrecisionTrainer(make(), precision=p, device="cpu") for p in ("auto", *DTYPES)}
            of_one_step = {p: MixedPrecisionTrainer(make(), precision=p, device="cpu") for p in DTYPES}
        step = dataset.shortened(batch_size)
        for trainer in of_one_step.values():  # the first step warms up
            epoch_s(trainer, step, batch_size)
        step_s = {p: epoch_s(trainer, step, batch_size) for p, trainer in of_one_step.items()}
        for precision in DTYPES:
            if step_s[precision] > HOPELESS * min(step_s.values()):
                del trainers[precision]
        best_s = dict.fromkeys(trainers, math.inf)
        for _ in range(num_rounds):
            for precision, trainer in trainers.items():
                best_s[precision] = min(best_s[precision], epoch_s(trainer, dataset, batch_size))
        fixed = {p: best_s[p] for p in DTYPES if p in best_s}
        found[name] = best_s["auto"] / min(fixed.values())
        found[f"{name}_best"] = min(fixed, key=fixed.__getitem__)
        found[f"{name}_auto"] = trainers["auto"].precision
    return found
