"""Trains a linear model on features of unit length, with and without differential privacy for each example.

With privacy, training is gradient descent on all examples. Every step clips the gradient of each example, adds noise to
their sum, and divides by a public constant, so that the number of examples stays private too. Each step is a release at
a sampling rate of 1.
"""

import math
from dataclasses import dataclass

import torch
from torch import nn

from deepseek.privacy.accounting import noise_multiplier_for
from deepseek.privacy.noise import gaussian_noise

NUM_CLASSES = 10

# Legend: N examples, D features, K classes.


@dataclass(frozen=True)
class PrivateChoice:
    """Hyperparameters of private training.

    Attributes:
        num_steps: Number of releases.
        clipping_norm: Bound on the L2 norm of the gradient of one example.
        learning_rate: Step size for the mean gradient divided by `clipping_norm`.
        momentum: Weight of earlier noisy gradients.
    """

    num_steps: int
    clipping_norm: float
    learning_rate: float
    momentum: float


@dataclass(frozen=True)
class PlainChoice:
    """Hyperparameters of training without privacy: stochastic gradient descent with Nesterov momentum 0.9, whose
    learning rate falls linearly to 0."""

    num_epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float


def train_private(
    features_ND: torch.Tensor,
    labels_N: torch.Tensor,
    choice: PrivateChoice,
    *,
    epsilon: float,
    delta: float,
    public: int,
) -> torch.Tensor:
    """Returns the weights, of shape (D + 1, K), after training within a privacy budget.

    Args:
        features_ND: Features of unit length.
        labels_N: Classes from 0 to 9.
        epsilon: Budget for the whole training, for adding or removing one example.
        public: Divisor of the sum of gradients; it must not depend on the examples.
    """
    noise_multiplier = noise_multiplier_for(epsilon, delta, 1.0, choice.num_steps)
    weights_DK = torch.zeros(features_ND.shape[1] + 1, NUM_CLASSES)
    velocity_DK = torch.zeros_like(weights_DK)
    for _ in range(choice.num_steps):
        total_DK = clipped_sum(features_ND, labels_N, weights_DK, choice.clipping_norm).double()
        noise_DK = gaussian_noise(total_DK.shape, noise_multiplier * choice.clipping_norm)
        noisy_DK = (total_DK + torch.from_numpy(noise_DK)).float()
        velocity_DK = choice.momentum * velocity_DK + noisy_DK / (public * choice.clipping_norm)
        weights_DK -= choice.learning_rate * velocity_DK
    return weights_DK


def clipped_sum(
    features_ND: torch.Tensor, labels_N: torch.Tensor, weights_DK: torch.Tensor, max_norm: float
) -> torch.Tensor:
    """Returns the sum of the examples' cross-entropy gradients, each clipped to an L2 norm.

    The gradient of an example is the outer product of its features, with a 1 for the bias, and its residual. Its norm
    is the product of their norms; that of the features is 1 without the bias.
    """
    residual_NK = _logits(features_ND, weights_DK).softmax(1)
    residual_NK[torch.arange(len(labels_N)), labels_N] -= 1
    norm_N = residual_NK.norm(dim=1) * math.sqrt(2)
    # The margin exceeds the rounding errors of float32, also those of the features' unit length.
    residual_NK *= (max_norm * (1 - 1e-5) / norm_N.clamp_min(1e-12)).clamp_max(1)[:, None]
    # In this order, the product takes a tenth of the time.
    return torch.cat([(residual_NK.T @ features_ND).T, residual_NK.sum(0, keepdim=True)])


def train_plain(features_ND: torch.Tensor, labels_N: torch.Tensor, choice: PlainChoice, seed: int) -> torch.Tensor:
    """Returns the weights, of shape (D + 1, K), after training without privacy."""
    torch.manual_seed(seed)
    weight_KD = nn.Parameter(torch.zeros(NUM_CLASSES, features_ND.shape[1]))
    bias_K = nn.Parameter(torch.zeros(NUM_CLASSES))
    groups = [{"params": [weight_KD], "weight_decay": choice.weight_decay}, {"params": [bias_K], "weight_decay": 0.0}]
    optimizer = torch.optim.SGD(groups, lr=choice.learning_rate, momentum=0.9, nesterov=True)
    num_steps = choice.num_epochs * -(-len(labels_N) // choice.batch_size)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 1 / num_steps, num_steps)
    for _ in range(choice.num_epochs):
        for index_B in torch.randperm(len(labels_N)).split(choice.batch_size):
            optimizer.zero_grad()
            logits_BK = nn.functional.linear(features_ND[index_B], weight_KD, bias_K)
            nn.functional.cross_entropy(logits_BK, labels_N[index_B]).backward()
            optimizer.step()
            schedule.step()
    return torch.cat([weight_KD.detach().T, bias_K.detach()[None]])


def accuracy(features_ND: torch.Tensor, labels_N: torch.Tensor, weights_DK: torch.Tensor) -> float:
    """Returns the share of examples whose class has the highest score."""
    return float((_logits(features_ND, weights_DK).argmax(1) == labels_N).double().mean())


def _logits(features_ND: torch.Tensor, weights_DK: torch.Tensor) -> torch.Tensor:
    return features_ND @ weights_DK[:-1] + weights_DK[-1]
