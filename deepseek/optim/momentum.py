"""Reads and changes the momentum of an optimizer: `momentum`, or the first of Adam's two `betas`."""

import torch


def momentum_of(optimizer: torch.optim.Optimizer) -> float | None:
    """Returns the momentum of the first parameter group; None if the optimizer has none that can be changed."""
    group = optimizer.param_groups[0]
    if isinstance(group.get("momentum"), int | float):
        return float(group["momentum"])
    betas = group.get("betas")
    if isinstance(betas, tuple | list) and betas and isinstance(betas[0], int | float):
        return float(betas[0])
    return None


def set_momentum(optimizer: torch.optim.Optimizer, momentum: float) -> None:
    """Sets the momentum of every parameter group. The optimizer must have one, see `momentum_of`."""
    for group in optimizer.param_groups:
        if "momentum" in group:
            group["momentum"] = momentum
        else:
            group["betas"] = (momentum, *group["betas"][1:])
