"""Small things to train, for the tests of the loop."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from deepseek.optim import OptimizerInterface

NUM_FEATURES = 8
NUM_CLASSES = 3


class Points:
    """Random points whose class is that of their largest coordinate.

    Args:
        num_samples: How many.
        ignored: Every so manyth target is -1; 0 for none.
        scale: Of the coordinates.
        broken: Samples that are NaN.
    """

    def __init__(self, num_samples: int, *, ignored: int = 0, scale: float = 1.0, broken: Sequence[int] = ()) -> None:
        self.x = torch.randn(num_samples, NUM_FEATURES, generator=torch.Generator().manual_seed(0)) * scale
        self.target = self.x[:, :NUM_CLASSES].argmax(1)
        if ignored:
            self.target[::ignored] = -1
        self.x[list(broken)] = torch.nan

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": self.x[index], "target": int(self.target[index])}


class Classifier(nn.Module):
    """Two layers, with dropout and batch normalization if asked for. The weights are always the same."""

    def __init__(self, *, dropout: float = 0.0, batch_norm: bool = False) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.layers = nn.Sequential(
                nn.Linear(NUM_FEATURES, 32),
                nn.BatchNorm1d(32) if batch_norm else nn.Identity(),
                nn.ReLU(),
                nn.Dropout(dropout),
                nn.Linear(32, NUM_CLASSES),
            )

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, 8] -> [B, 3]."""
        logits: Tensor = self.layers(x)
        return logits


class NoisyMomentum(OptimizerInterface):
    """An optimizer of one's own, with state and with noise."""

    def step(self, params: Sequence[Tensor], gradients: Sequence[Tensor]) -> None:
        for param, gradient in zip(params, gradients, strict=True):
            state = self.state[param]
            state["velocity"] = 0.9 * state.get("velocity", torch.zeros_like(param)) + gradient
            state["num_updates"] = state.get("num_updates", 0) + 1
            param.sub_(self.lr * (state["velocity"] + 0.01 * torch.randn_like(param)))


def weights(model: nn.Module) -> Tensor:
    """All weights in one row."""
    return torch.cat([param.detach().reshape(-1) for param in model.parameters()])
