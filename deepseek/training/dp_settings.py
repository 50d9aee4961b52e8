"""The settings of DP-SGD (Abadi et al. 2016, arXiv:1607.00133, algorithm 1). This module does not import torch."""

import math
from dataclasses import dataclass

from common.errors import InvalidArgument
from deepseek.privacy.norms import MAX_NORM, MIN_NORM
from deepseek.privacy.releases import Release


@dataclass(frozen=True)
class DpSgd:
    """How DP-SGD samples, clips and adds noise. All of it is public, and must not be derived from the private data.

    Attributes:
        noise_multiplier: Standard deviation of the noise divided by `max_grad_norm`; above 0.
        max_grad_norm: L2 norm to which the gradient of each example is clipped; from 1e-12 to 1e12.
        expected_batch_size: Divisor of the noisy sum of gradients; at least 1.
        sampling_rate: Probability with which a step uses an example, independently of all others (Poisson sampling);
            above 0 and at most 1.
    """

    noise_multiplier: float
    max_grad_norm: float
    expected_batch_size: int
    sampling_rate: float

    def __post_init__(self) -> None:
        positive = {"noise_multiplier": self.noise_multiplier, "max_grad_norm": self.max_grad_norm}
        for name, value in positive.items():
            if not 0 < value < math.inf:
                reason = "BAD_NOISE" if name == "noise_multiplier" else "BAD_VALUE"
                raise InvalidArgument(reason, f"{name} is {value}; it must be finite and above 0", field=name)
        if not MIN_NORM <= self.max_grad_norm <= MAX_NORM:
            message = f"max_grad_norm is {self.max_grad_norm}; it must be from {MIN_NORM:g} to {MAX_NORM:g}"
            raise InvalidArgument("BAD_VALUE", message, field="max_grad_norm")
        if self.expected_batch_size < 1:
            message = f"expected_batch_size is {self.expected_batch_size}; it must be at least 1"
            raise InvalidArgument("BAD_VALUE", message, field="expected_batch_size")
        if not 0 < self.sampling_rate <= 1:
            message = f"sampling_rate is {self.sampling_rate}; it must be above 0 and at most 1"
            raise InvalidArgument("BAD_RATE", message, field="sampling_rate")

    @property
    def steps_per_epoch(self) -> int:
        """Number of steps that count as one epoch: 1 / sampling_rate, rounded up."""
        return steps_per_epoch(self.sampling_rate)

    def release(self, num_epochs: int) -> Release:
        """Returns what training with these settings releases: one noisy sum of gradients per step.

        Raises:
            InvalidArgument: BAD_COUNT at `count` if there are too many steps.
        """
        return Release(self.noise_multiplier, self.sampling_rate, num_epochs * self.steps_per_epoch)

    @property
    def nominal_examples(self) -> int:
        """Number of examples to report in place of the real number, which is private; at least 1."""
        return max(1, round(self.expected_batch_size / self.sampling_rate))


def steps_per_epoch(sampling_rate: float) -> int:
    """Returns the number of steps that count as one epoch, which does not depend on the number of examples.

    >>> steps_per_epoch(0.03)
    34
    """
    return math.ceil(1 / sampling_rate)
