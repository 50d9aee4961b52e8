"""Trains one configuration of the tabular benchmark: a multi-layer perceptron that reads handwritten digits."""

import math
import time
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

NUM_CLASSES = 10
SIDE = 14
"""Images of 28 x 28 pixels are averaged to this width and height."""

# Legend: B batch, N images, D pixels.


@dataclass(frozen=True)
class Configuration:
    """Hyperparameters of one network and its training.

    Attributes:
        learning_rate: Step size of stochastic gradient descent.
        momentum: Weight of earlier gradients.
        batch_size: Number of images per step.
        weight_decay: Weight of the L2 penalty.
        width: Number of units per hidden layer.
        depth: Number of hidden layers.
    """

    learning_rate: float
    momentum: float
    batch_size: int
    weight_decay: float
    width: int
    depth: int


Images = tuple[torch.Tensor, torch.Tensor]
"""Pixels of shape (N, D), and labels of shape (N,)."""


def pixels(images_NHW: npt.NDArray[np.uint8]) -> torch.Tensor:
    """Returns float32 pixels of shape (N, 196), with a mean near 0 and a standard deviation near 1."""
    coarse_NHW = images_NHW.reshape(-1, SIDE, 28 // SIDE, SIDE, 28 // SIDE).mean((2, 4))
    return torch.from_numpy((coarse_NHW.reshape(len(images_NHW), -1) / 255 - 0.13) / 0.27).float()


def learning_curve(
    configuration: Configuration, training: Images, validation: Images, *, num_epochs: int, seed: int
) -> dict[str, Any]:
    """Trains a network, and validates it after each epoch.

    Returns:
        `num_right`: number of validation images whose class was recognized, per epoch; `loss`: mean cross-entropy on
        the validation images per epoch, None if it is not finite; `seconds`: processor time of training and validation.
    """
    pixels_ND, labels_N = training
    torch.manual_seed(seed)
    sizes = [pixels_ND.shape[1], *[configuration.width] * configuration.depth]
    hidden = [layer for size in pairwise(sizes) for layer in (nn.Linear(*size), nn.ReLU())]
    network = nn.Sequential(*hidden, nn.Linear(sizes[-1], NUM_CLASSES))
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=configuration.learning_rate,
        momentum=configuration.momentum,
        weight_decay=configuration.weight_decay,
    )
    num_right, losses = [], []
    start = time.process_time()
    for _ in range(num_epochs):
        for index_B in torch.randperm(len(labels_N)).split(configuration.batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(pixels_ND[index_B]), labels_N[index_B]).backward()
            optimizer.step()
        with torch.no_grad():
            logits_NK = network(validation[0])
            loss = float(nn.functional.cross_entropy(logits_NK, validation[1]))
        num_right.append(int((logits_NK.argmax(1) == validation[1]).sum()))
        losses.append(round(loss, 4) if math.isfinite(loss) else None)
    return {"num_right": num_right, "loss": losses, "seconds": round(time.process_time() - start, 3)}
