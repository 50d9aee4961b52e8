"""Names of arrays, and uniforms out of random words."""

import numpy as np
import numpy.typing as npt

Real = npt.NDArray[np.floating]
Complex = npt.NDArray[np.complexfloating]


def uniforms(words_N: npt.NDArray[np.uint64]) -> npt.NDArray[np.float64]:
    """Uniforms from 0 to below 1: the upper 53 bits of random words, so that any language can follow.

    >>> float(uniforms(np.array([1 << 63], np.uint64))[0])
    0.5
    """
    return (words_N >> np.uint64(11)).astype(np.float64) * 2.0**-53
