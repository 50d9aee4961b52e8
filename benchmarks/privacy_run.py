"""Trains the linear model of `benchmarks.privacy_training` with the DP-SGD of private runs, as a run spec describes it.

The spec with `privacy` goes through the code of the trainer's workers: the noise is chosen for an epsilon, examples are
sampled with the operating system's random generator, gradients are clipped and noised for each step, and the steps that
were made are compared with those that the ledger would debit. The features are in memory instead of in shards.
"""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.privacy_training import NUM_CLASSES, PrivateChoice
from deepseek.components import MODELS
from deepseek.privacy.accounting import noise_multiplier_for
from deepseek.trainjob.pipeline import build_model
from deepseek.trainjob.runspec import RunSpec
from deepseek.trainjob.train import make_trainer

EXAMPLE_RATE = 0.1
MODEL = "benchmark_linear"

# Legend: N examples, B examples of a step, D features, K classes.


class Linear(nn.Module):
    """A linear classifier."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_features, NUM_CLASSES)

    def forward(self, features: Tensor) -> Tensor:
        """features: [B, D] -> logits [B, K]."""
        logits_BK: Tensor = self.linear(features)
        return logits_BK


class Examples:
    """Features and labels in memory, in the form that trainers read."""

    def __init__(self, features_ND: Tensor, labels_N: Tensor) -> None:
        self._features_ND, self._labels_N = features_ND, labels_N

    def __len__(self) -> int:
        return len(self._labels_N)

    def __getitem__(self, index: int) -> int:
        return index

    def collate(self, samples: Sequence[int]) -> dict[str, Tensor]:
        """Returns a batch."""
        index_B = torch.tensor(samples)
        return {"features": self._features_ND[index_B], "target": self._labels_N[index_B]}


def run_spec(choice: PrivateChoice, *, epsilon: float, num_features: int, public: int, seed: int) -> RunSpec:
    """Returns the spec of a run that makes as many steps as `choice` with the same step size, but samples examples.

    Args:
        choice: Hyperparameters of training on all examples.
        epsilon: Budget for the whole run.
        num_features: Number of features of an example.
        public: Number of examples for which `batch_size` is the expected one; it must not depend on the examples.
        seed: Seed of the initial weights.
    """
    privacy = {
        "target_epsilon": epsilon,
        "clip_norm": choice.clipping_norm,
        "example_rate": EXAMPLE_RATE,
        "budget": "budgets/mnist",
    }
    # The learning rate of a choice is for gradients divided by the clipping norm.
    sgd = {"lr": choice.learning_rate / choice.clipping_norm, "momentum": choice.momentum}
    spec: dict[str, Any] = {
        "dataset_version": "datasets/mnist/versions/1",
        "model": {"name": MODEL, "params": {"num_features": num_features}},
        "optimizer": {"name": "sgd", "params": sgd},
        "inputs": [{"field": "features", "encoder": {"name": "number"}}],
        "target": {"field": "label"},
        "epochs": round(choice.num_steps * EXAMPLE_RATE),
        "batch_size": round(public * EXAMPLE_RATE),
        "precision": "PRECISION_FP32",
        "seed": seed,
        "privacy": privacy,
    }
    if MODEL not in MODELS.names():
        MODELS.register(MODEL, Linear)
    found = RunSpec.from_json(spec).with_defaults()
    found.check()
    return found


def train_run(features_ND: Tensor, labels_N: Tensor, spec: RunSpec, *, delta: float) -> Tensor:
    """Returns the weights, of shape (D + 1, K), after the private run of a spec."""
    privacy = spec.privacy
    assert privacy is not None, "the spec is private"
    assert privacy.target_epsilon is not None, "the spec aims at an epsilon"
    num_steps = privacy.num_steps(spec.epochs)
    spec = spec.with_noise(_noise(privacy.target_epsilon, delta, privacy.example_rate, num_steps))
    assert spec.privacy is not None, "the spec is private"
    trainer = make_trainer(spec, build_model(spec))
    trainer.fit(
        Examples(features_ND, labels_N), epochs=spec.epochs, batch_size=spec.batch_size, on_event=lambda event: None
    )
    debited = spec.privacy.release(spec.epochs)
    if trainer.release != debited:
        raise RuntimeError(f"the run has released {trainer.release}, but {debited} would be debited")
    linear = trainer.model.get_submodule("linear")
    assert isinstance(linear, nn.Linear), "the model of the spec"
    return torch.cat([linear.weight.detach().T, linear.bias.detach()[None]])


@cache
def _noise(epsilon: float, delta: float, rate: float, num_steps: int) -> float:
    """Returns the noise multiplier that the trainer chooses for a run; all splits have the same one."""
    return noise_multiplier_for(epsilon, delta, rate, num_steps)
