"""Seeds torch's random number generators for each step, so that a resumed run draws the same numbers as
an uninterrupted run.
"""

import hashlib
import struct

import torch

ALL_RANKS = -1
"""Value to pass to `StepGenerators.seed` if every rank must draw the same numbers."""


class StepGenerators:
    """Seeds torch's generators from the run's seed, the step and the rank.

    Args:
        seed: Seed of the run, from 0 to 2^63 - 1.
        device: Device whose generator is seeded in addition to the CPU's.

    Attributes:
        step: Number of the current step.
    """

    def __init__(self, seed: int, device: torch.device) -> None:
        self.step = 0
        self._seed = seed
        self._device = device

    def seed(self, rank: int) -> None:
        """Seeds the generators for the current step. A negative rank selects a sequence that no actual rank uses."""
        digest = hashlib.blake2b(struct.pack("<qqq", self._seed, self.step, rank), digest_size=8).digest()
        number = int.from_bytes(digest, "little")
        # torch.manual_seed would record a stack trace for each kind of device that is absent, which takes 0.5 ms per
        # call.
        torch.default_generator.manual_seed(number)
        if self._device.type == "cuda":
            torch.cuda.manual_seed(number)
