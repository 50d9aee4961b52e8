"""Finds recordings that are damaged although they can be decoded: silent or clipped ones."""

from typing import TYPE_CHECKING

from common.errors import InvalidArgument

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

FULL_SCALE = 0.99
"""Smallest absolute value at full scale. It is below 127 / 128, the largest value of 8-bit audio."""
MIN_CLIPPED_RUN = 3
"""Number of equal values in a row at full scale that count as clipped, as in Audacity's Find Clipping. A single one may
be the peak of a loud, but undamaged sound."""
MAX_CLIPPED_SHARE = 0.2
"""A recording is kept aside if more than this share of its values is clipped."""


def check_sound(data: bytes, name: str) -> None:
    """Checks that a recording is neither silent nor clipped.

    Args:
        data: Bytes of an audio file.
        name: Name of the field, for the error.

    Raises:
        InvalidArgument: DAMAGED_AUDIO, SILENT_AUDIO or CLIPPED_AUDIO.
    """
    from deepseek.data.media import decode_audio

    values, _ = decode_audio(data, name=name)
    if not values.any():
        raise InvalidArgument("SILENT_AUDIO", f"{name} is silent: all of its values are 0")
    if (share := _clipped_share(values)) > MAX_CLIPPED_SHARE:
        message = f"{name} is clipped: {share:.0%} of its values are cut off at full scale; record it at a lower level"
        raise InvalidArgument("CLIPPED_AUDIO", message)


def _clipped_share(values: "npt.NDArray[np.float32]") -> float:
    """Returns the share of the values, [frames, channels], that are in a run of equal values at full scale."""
    import numpy as np

    repeats = (values[1:] == values[:-1]) & (np.abs(values[1:]) >= FULL_SCALE)
    starts = np.ones((max(0, len(values) - MIN_CLIPPED_RUN + 1), values.shape[1]), bool)
    for offset in range(MIN_CLIPPED_RUN - 1):
        starts &= repeats[offset : offset + len(starts)]
    is_clipped = np.zeros(values.shape, bool)
    for offset in range(MIN_CLIPPED_RUN):
        is_clipped[offset : offset + len(starts)] |= starts
    return float(is_clipped.mean())
