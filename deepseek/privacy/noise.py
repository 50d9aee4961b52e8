"""Gaussian noise for releases: unpredictable, and safe against attacks on its floating-point representation."""

import math
import random
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from deepseek.privacy.releases import check_noise
from deepseek.privacy.sampling import RandomBytes

_CHUNK = 1 << 14


def gaussian_noise(
    shape: Sequence[int], standard_deviation: float, source: RandomBytes | None = None
) -> npt.NDArray[np.float64]:
    """Draws independent Gaussian noise.

    Each number is half the sum of four independent Box-Muller samples. One Box-Muller sample can take only some of the
    numbers near its value, and these numbers can reveal the protected value. For a sum of four, the search through all
    combinations is infeasible (Holohan and Braghin 2021, arXiv:2107.10138).

    Args:
        shape: Shape of the array.
        standard_deviation: Noise multiplier times clipping norm; 0 gives zeros.
        source: Source of randomness; the operating system's by default.

    Returns:
        float64. Add it to a float64 sum, and round to float32 afterwards.

    Raises:
        InvalidArgument: BAD_NOISE.
    """
    scale = check_noise(standard_deviation, "standard_deviation")
    source = source or random.SystemRandom()
    noise_N = np.empty(math.prod(shape))
    for start in range(0, noise_N.size, _CHUNK):  # bounds the memory for random words
        part_N = noise_N[start : start + _CHUNK]
        part_N[:] = _standard_normal(part_N.size, source) * scale
    return noise_N.reshape(tuple(shape))


def _standard_normal(count: int, source: RandomBytes) -> npt.NDArray[np.float64]:
    words_8N = np.frombuffer(source.randbytes(64 * count), "<u8").reshape(8, count)
    # In (0, 1], with all 64 bits, so that the tail reaches 9.4 standard deviations before samples are summed.
    radius_4N = np.sqrt(-2.0 * np.log((words_8N[:4].astype(np.float64) + 1.0) * 2.0**-64))
    angle_4N = (words_8N[4:] >> np.uint64(11)).astype(np.float64) * (2.0 * math.pi * 2.0**-53)
    samples_N: npt.NDArray[np.float64] = (radius_4N * np.cos(angle_4N)).sum(axis=0) / 2.0
    return samples_N
