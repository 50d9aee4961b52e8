"""Mean of updates with client-level differential privacy.

Every update is clipped to an L2 norm of at most C, the clipped updates are summed, Gaussian noise with the standard
deviation sigma * C is added, and the sum is divided by a public constant (McMahan et al. 2018, arXiv 1710.06963,
algorithm 1, with a fixed denominator and equal weights). Rounding errors of a sum can exceed C, so clipped values are
rounded towards zero to multiples of a power of two, whose sums are exact (`deepseek.privacy.norms.grid_of`).
"""

import numpy as np
import numpy.typing as npt

from common.errors import InvalidArgument
from deepseek.federated.aggregation import Means
from deepseek.federated.arrays import Arrays, Shapes
from deepseek.privacy.clipping import clip
from deepseek.privacy.noise import gaussian_noise
from deepseek.privacy.norms import MAX_NORM, MAX_SUMMANDS, MIN_NORM, grid_of
from deepseek.privacy.sampling import RandomBytes


class ClippedSum:
    """The exact sum of clipped updates, which does not depend on their order; see `clip_to_grid`.

    Updates are added when they arrive. So they need not be kept, and what is left to do when a round closes takes the
    same time whoever took part.

    Args:
        shapes: Names and shapes of the arrays of every update.
        clip_norm: C, from `norms.MIN_NORM` to `MAX_NORM`.

    Raises:
        InvalidArgument: BAD_VALUE, if `clip_norm` is out of range.
    """

    def __init__(self, shapes: Shapes, clip_norm: float) -> None:
        check_clip_norm(clip_norm)
        self._clip_norm = clip_norm
        self._num_updates = 0
        self._sums = {name: np.zeros(shapes[name], np.float64) for name in sorted(shapes)}

    @property
    def arrays(self) -> Means:
        """The sum, which is not protected."""
        return self._sums

    def add(self, update: Arrays) -> None:
        """Adds an update, at most `norms.MAX_SUMMANDS` times.

        Raises:
            InvalidArgument: As `clip_to_grid`.
        """
        assert self._num_updates < MAX_SUMMANDS, "sums of more updates would not be exact"
        self._num_updates += 1
        for name, clipped in clip_to_grid(update, self._clip_norm).items():
            self._sums[name] += clipped

    def noisy_mean(self, noise_multiplier: float, divisor: float, source: RandomBytes | None = None) -> Means:
        """Returns the noisy mean. Without any update, it is noise only, which is a valid release.

        Args:
            noise_multiplier: sigma.
            divisor: Public constant: the expected number of updates; above 0.
            source: Source of randomness; the operating system's by default.
        """
        deviation = noise_multiplier * self._clip_norm
        return {
            name: (total + gaussian_noise(total.shape, deviation, source)) / divisor
            for name, total in self._sums.items()
        }


def clip_to_grid(update: Arrays, clip_norm: float) -> dict[str, npt.NDArray[np.float64]]:
    """Returns an update scaled down to an L2 norm of at most C, as multiples of a power of two below C * 2^-31.

    Raises:
        InvalidArgument: NOT_FINITE, if a value is NaN or infinite; BAD_VALUE, if `clip_norm` is out of range.

    >>> clip_to_grid({"w": np.float32([3, 4])}, 1.0)["w"].round(6).tolist()
    [0.6, 0.8]
    """
    check_clip_norm(clip_norm)
    grid = grid_of(clip_norm)
    return {name: np.trunc(clipped / grid) * grid for name, clipped in clip(update, clip_norm).items()}


def check_clip_norm(clip_norm: float) -> None:
    """Checks a clipping norm.

    Raises:
        InvalidArgument: BAD_VALUE.
    """
    if not MIN_NORM <= clip_norm <= MAX_NORM:
        raise InvalidArgument(
            "BAD_VALUE",
            f"clip_norm is {clip_norm:g}; it must be from {MIN_NORM:g} to {MAX_NORM:g}",
            field="privacy.clip_norm",
        )
