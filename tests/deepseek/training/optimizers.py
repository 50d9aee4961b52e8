"""Every optimizer of torch with a model that it can train."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from deepseek.training import MixedPrecisionTrainer
from tests.deepseek.training.tasks import NUM_CLASSES, NUM_FEATURES, Classifier


class Bag(nn.Module):
    """A table with sparse gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(4, NUM_CLASSES, sparse=True)
        nn.init.uniform_(self.table.weight, generator=torch.Generator().manual_seed(0))

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, 8] -> [B, 3]."""
        logits: Tensor = self.table(x[:, :NUM_CLASSES].argmax(1))
        return logits


class Matrix(nn.Module):
    """A single two-dimensional weight."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(NUM_FEATURES, NUM_CLASSES, bias=False)
        nn.init.uniform_(self.linear.weight, generator=torch.Generator().manual_seed(0))

    def forward(self, x: Tensor) -> Tensor:
        """x: [B, 8] -> [B, 3]."""
        logits: Tensor = self.linear(x)
        return logits


OPTIMIZERS: dict[str, tuple[type[torch.optim.Optimizer], Callable[[], nn.Module], dict[str, Any]]] = {
    "ASGD": (torch.optim.ASGD, Classifier, {"t0": 2}),
    "Adadelta": (torch.optim.Adadelta, Classifier, {}),
    "Adafactor": (torch.optim.Adafactor, Classifier, {}),
    "Adagrad": (torch.optim.Adagrad, Classifier, {"lr_decay": 0.1}),
    "Adam": (torch.optim.Adam, Classifier, {}),
    "AdamW": (torch.optim.AdamW, Classifier, {}),
    "Adamax": (torch.optim.Adamax, Classifier, {}),
    "LBFGS": (torch.optim.LBFGS, Classifier, {"line_search_fn": "strong_wolfe", "max_iter": 1, "history_size": 4}),
    "Muon": (torch.optim.Muon, Matrix, {}),
    "NAdam": (torch.optim.NAdam, Classifier, {"decoupled_weight_decay": True, "weight_decay": 0.1}),
    "RAdam": (torch.optim.RAdam, Classifier, {}),
    "RMSprop": (torch.optim.RMSprop, Classifier, {"momentum": 0.9}),
    "Rprop": (torch.optim.Rprop, Classifier, {}),
    "SGD": (torch.optim.SGD, Classifier, {"momentum": 0.9}),
    "SparseAdam": (torch.optim.SparseAdam, Bag, {}),
    "SGD, sparse": (torch.optim.SGD, Bag, {}),
}


def trainer_of(name: str, params: Mapping[str, Any] | None = None) -> MixedPrecisionTrainer:
    """A trainer with one of these optimizers and further parameters."""
    optimizer, model, fixed = OPTIMIZERS[name]
    return MixedPrecisionTrainer(
        model(), optimizer, "fp32", optimizer_params={**fixed, **(params or {})}, clip_norm=5.0
    )
