"""The encoder `audio`: decodes a recording to a mono waveform of fixed length and sampling rate.

Like all encoders, it does not depend on torch. Resampling is a windowed-sinc filter in NumPy, so the trainer and every
client get the same values.
"""

import math
from fractions import Fraction
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from common.errors import InvalidArgument
from common.scalars import real_number, whole_number
from deepseek.data import media
from deepseek.data.encoders import Encoder

_MAX_VALUES = 1 << 24
_MAX_PHASES = 1024
_RATES = (1_000, 192_000)
_NUM_CROSSINGS = 64
"""Zero crossings of the filter on each side."""
_KAISER_BETA = 10.0
_CUTOFF = 0.95
"""Cutoff frequency of the filter, relative to half of the lower sampling rate."""


class AudioEncoder(Encoder):
    """Decodes a recording (WAV, FLAC or Ogg) to a mono waveform, float32 [round(seconds * sample_rate)].

    Channels are averaged, the recording is resampled to `sample_rate`, and its beginning is kept: the rest of a longer
    recording is dropped, and a shorter one is followed by silence. The values are from -1 to 1, except that resampling
    may overshoot slightly. The filter passes frequencies up to 0.9 of half the lower sampling rate within 0.01 %, and
    attenuates those above half of it by at least 90 dB.

    Args:
        sample_rate: Sampling rate of the waveform in Hz, from 1,000 to 192,000.
        seconds: Duration of the waveform in seconds.
    """

    dtype = np.dtype(np.float32)

    def __init__(self, sample_rate: int = 16_000, seconds: float = 1.0) -> None:
        sample_rate, seconds = whole_number(sample_rate, "sample_rate"), real_number(seconds, "seconds")
        if not _RATES[0] <= sample_rate <= _RATES[1]:
            message = f"sample_rate is {sample_rate}; it must be from {_RATES[0]} to {_RATES[1]} Hz"
            raise InvalidArgument("BAD_VALUE", message, field="sample_rate")
        length = round(seconds * sample_rate) if math.isfinite(seconds) else 0
        if not 1 <= length <= _MAX_VALUES:
            message = f"seconds is {seconds}, which is {length} values; use a duration of 1 to {_MAX_VALUES} values"
            raise InvalidArgument("BAD_VALUE", message, field="seconds")
        super().__init__((length,), sample_rate=sample_rate, seconds=seconds)
        self._sample_rate = sample_rate

    def encode(self, value: object) -> npt.NDArray[np.float32]:
        """Encodes a recording.

        Args:
            value: Bytes of an audio file.

        Raises:
            InvalidArgument: DAMAGED_AUDIO if the file is damaged; UNSUPPORTED_RATE if its sampling rate is not from
                1,000 to 192,000 Hz; WRONG_TYPE if `value` is not bytes.
            FailedPrecondition: PACKAGE_MISSING if the package soundfile is not installed.
        """
        if not isinstance(value, bytes):
            raise InvalidArgument("WRONG_TYPE", f"needs the bytes of an audio file, not {type(value).__name__}")
        values, rate = media.decode_audio(value)
        if not _RATES[0] <= rate <= _RATES[1]:
            message = f"the sampling rate is {rate} Hz; it must be from {_RATES[0]} to {_RATES[1]} Hz"
            raise InvalidArgument("UNSUPPORTED_RATE", message)
        (length,) = self.shape
        # A little more than is kept, so that the filter sees what follows the last value.
        needed = math.ceil((length + 4 * _NUM_CROSSINGS) * max(1.0, rate / self._sample_rate)) + 4 * _NUM_CROSSINGS
        mono = values[:needed].mean(1, dtype=np.float64)
        found = resample(mono, rate, self._sample_rate)[:length]
        encoded = np.zeros(length, np.float32)
        encoded[: len(found)] = found
        return encoded


def resample(values: npt.NDArray[np.float64], rate: int, new_rate: int) -> npt.NDArray[np.float64]:
    """Resamples a waveform with a Kaiser-windowed sinc filter (Smith 2002, Digital Audio Resampling).

    The ratio of the rates is approximated by a fraction of numbers up to 1024. All common rates have such a ratio; for
    any other pair, the pitch changes by less than 0.05 %.

    Args:
        values: Waveform, float64 [T]. It is preceded and followed by silence.
        rate: Its sampling rate in Hz.
        new_rate: Sampling rate of the result in Hz.

    Returns:
        Waveform, float64 [ceil(T * new_rate / rate)]; `values` itself if the two rates are equal.
    """
    if rate == new_rate:
        return values
    low, high = sorted((rate, new_rate))
    ratio = Fraction(low, high).limit_denominator(_MAX_PHASES)
    up, down = ratio.as_integer_ratio() if new_rate == low else ratio.as_integer_ratio()[::-1]
    bank = _filters(up, down)
    half = bank.shape[1] // 2
    num_new = -(-len(values) * up // down)
    padded = np.pad(values, (half, half + down))
    windows = np.lib.stride_tricks.sliding_window_view(padded, bank.shape[1])
    resampled = np.empty(num_new)
    # Every `up`-th output has the same position between two inputs, and hence the same filter.
    for phase in range(min(up, num_new)):
        count = len(range(phase, num_new, up))
        resampled[phase::up] = windows[phase * down // up :: down][:count] @ bank[phase]
    return resampled


@lru_cache(maxsize=16)
def _filters(up: int, down: int) -> npt.NDArray[np.float64]:
    """Returns the filter of each position between two inputs, [up, taps]; at most about 140,000 numbers."""
    cutoff = _CUTOFF * min(1.0, up / down)
    half = math.ceil(_NUM_CROSSINGS / cutoff)
    positions = (np.arange(up) * down % up / up)[:, None]
    distance = np.arange(-half, half + 1) - positions
    inside = np.clip(1 - (distance / half) ** 2, 0, None)
    window = np.i0(_KAISER_BETA * np.sqrt(inside)) / np.i0(_KAISER_BETA)
    filters: npt.NDArray[np.float64] = cutoff * np.sinc(cutoff * distance) * window
    return filters
