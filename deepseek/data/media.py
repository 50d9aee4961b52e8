"""Decoding of images and sound that strangers may have sent.

Everything that turns encoded bytes into pixels or samples goes through here, so the limits and the error are the same
for an upload, for training and for a served request. Only the formats that the ingest protocol names are tried: each
further decoder is attack surface. Few large files are decoded at a time, as a few bytes may decode to a lot of memory.
How a picture is shown is decided in `deepseek.data.pictures`, what a header is worth in `deepseek.data.png` and
`deepseek.data.containers`; nothing is resized or resampled here (`deepseek.data.encoders`).
"""

import io
import os
import struct
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, UnidentifiedImageError

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.data import containers, pictures, png

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")
AUDIO_FORMATS = ("WAV", "WAVEX", "FLAC", "OGG")
MAX_PIXELS = 64 * 1024 * 1024
"""Larger images are refused before they are decoded; Pillow takes 4 bytes a pixel, 256 MiB."""
MAX_AUDIO_VALUES = 32 * 1024 * 1024
"""Longer recordings (frames times channels) are refused before they are decoded: 128 MiB, 12 minutes at 44.1 kHz."""
MAX_PEAK = 100.0
"""Recordings with greater values are refused: values 40 dB above full scale are unscaled integers."""
MAX_LARGE = 2
"""How many files with more than LARGE_VALUES pixels or values a process decodes at a time; more wait."""
LARGE_VALUES = 1024 * 1024
_BLOCK_VALUES = 64 * 1024

# What Pillow's decoders raise on damaged input, as fuzzing in its own tests and ours shows. MemoryError is among them
# because a damaged header can ask for any amount.
_DECODER_ERRORS = (
    OSError,
    SyntaxError,
    ValueError,
    TypeError,
    LookupError,
    ArithmeticError,
    AttributeError,
    EOFError,
    MemoryError,
    RuntimeError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
    Image.DecompressionBombWarning,
)


_large = threading.BoundedSemaphore(MAX_LARGE)


def _forget_parents_turns() -> None:
    global _large
    _large = threading.BoundedSemaphore(MAX_LARGE)


# A child has none of the threads that would give back their turn.
os.register_at_fork(after_in_child=_forget_parents_turns)


def decode_image(data: bytes, *, mode: str = "RGB", field: str = "", name: str = "image") -> Image.Image:
    """Decodes an image wholly, as viewers show it.

    Args:
        data: An encoded PNG, JPEG or WebP file; of an animation the first frame is taken.
        mode: `RGB` or `L`.
        field: Path of the value for the error.
        name: What to call it in the message, e.g. a file's path.

    Returns:
        The pixels as `pictures.as_shown` returns them, detached from `data`.

    Raises:
        InvalidArgument: DAMAGED_IMAGE if it is not such a file, is cut off or damaged, or has more than MAX_PIXELS.
    """
    with open_image(data, field=field, name=name) as image:
        return pictures.as_shown(image, mode)


@contextmanager
def open_image(data: bytes, *, field: str = "", name: str = "image") -> Iterator[Image.Image]:
    """Opens an image whose pixels may be decoded within, as stored; for callers that need more than the pixels.

    Args:
        data: As decode_image.
        field: As decode_image.
        name: As decode_image.

    Raises:
        InvalidArgument: As decode_image, also for what is raised within.
    """
    try:
        with _pillow_image(data) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                message = f"{name} has {width} x {height} pixels; at most {MAX_PIXELS} are decoded"
                raise InvalidArgument("DAMAGED_IMAGE", message, field=field)
            with _turn(width * height):
                yield image
    except _DECODER_ERRORS as error:
        raise InvalidArgument("DAMAGED_IMAGE", f"{name} cannot be decoded: {_brief(error)}", field=field) from error


def is_too_large(data: bytes, max_side: int) -> bool:
    """Whether an image has a longer side or more pixels than MAX_PIXELS, as far as its header can be read."""
    try:
        with _pillow_image(data) as image:
            return max(image.size) > max_side or image.width * image.height > MAX_PIXELS
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return True
    except _DECODER_ERRORS:
        return False


def check_image(data: bytes, *, field: str = "", name: str = "image") -> None:
    """Proves an image whole: its checksums, where the format has them, and every pixel.

    Raises:
        InvalidArgument: DAMAGED_IMAGE, as decode_image.
    """
    try:
        with _pillow_image(data) as image:
            if image.format == "PNG":
                image.verify()  # decoding alone does not look at the checksum of the pixel data
    except _DECODER_ERRORS as error:
        raise InvalidArgument("DAMAGED_IMAGE", f"{name} cannot be decoded: {_brief(error)}", field=field) from error
    decode_image(data, field=field, name=name)


def _pillow_image(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png.readable(data)), formats=IMAGE_FORMATS)


def decode_audio(data: bytes, *, field: str = "", name: str = "audio") -> tuple[npt.NDArray[np.float32], int]:
    """Decodes a recording wholly.

    Args:
        data: An encoded WAV, FLAC or Ogg file.
        field: Path of the value for the error.
        name: What to call it in the message, e.g. a file's path.

    Returns:
        float32 [frames, channels] in [-1, 1], with louder peaks clipped, and the sampling rate in Hz.

    Raises:
        InvalidArgument: DAMAGED_AUDIO if it is not such a file, is truncated or damaged, is too long, or holds values
            that are not finite or exceed MAX_PEAK.
    """
    with _recording(data, field, name) as recording, _turn(recording.frames * recording.channels):
        samples = np.empty((recording.frames, recording.channels), np.float32)
        num_read = len(recording.read(out=samples))
        _check_length(num_read, recording.frames, field, name)
        _check_values(samples, 0, field, name)
        return np.clip(samples, -1, 1, out=samples), int(recording.samplerate)


def check_audio(data: bytes, *, field: str = "", name: str = "audio") -> None:
    """Proves a recording whole: every frame is decoded, block by block, and none is kept.

    Raises:
        InvalidArgument: DAMAGED_AUDIO, as decode_audio.
    """
    with _recording(data, field, name) as recording:
        num_frames = 0
        block = np.empty((max(1, _BLOCK_VALUES // recording.channels), recording.channels), np.float32)
        while num_frames <= recording.frames and (num_read := len(recording.read(out=block))):
            _check_values(block[:num_read], num_frames, field, name)
            num_frames += num_read
        _check_length(num_frames, recording.frames, field, name)


@contextmanager
def _recording(data: bytes, field: str, name: str) -> Iterator[Any]:
    """An open sound file of a format and a length that are allowed; errors within become DAMAGED_AUDIO."""
    soundfile = _soundfile()
    try:
        with soundfile.SoundFile(io.BytesIO(containers.settled(data))) as recording:
            if recording.format not in AUDIO_FORMATS:
                message = f"{name} is {recording.format}; WAV, FLAC and Ogg are read, so convert it to one of these"
                raise InvalidArgument("DAMAGED_AUDIO", message, field=field)
            if recording.frames * recording.channels > MAX_AUDIO_VALUES:
                message = f"{name} has {recording.frames} frames of {recording.channels} channels; that is too long"
                raise InvalidArgument("DAMAGED_AUDIO", message, field=field)
            yield recording
    except _DECODER_ERRORS as error:
        raise InvalidArgument("DAMAGED_AUDIO", f"{name} cannot be decoded: {_brief(error)}", field=field) from error


def _check_length(num_read: int, num_frames: int, field: str, name: str) -> None:
    if not num_frames:
        raise InvalidArgument("DAMAGED_AUDIO", f"{name} contains no audio", field=field)
    if num_read != num_frames:
        message = f"{name} is truncated: {num_read} of {num_frames} frames could be read"
        raise InvalidArgument("DAMAGED_AUDIO", message, field=field)


def _check_values(samples: npt.NDArray[np.float32], first_frame: int, field: str, name: str) -> None:
    """Refuses invalid samples [frames, channels]; `first_frame` is their position in the recording."""
    # If an array holds NaN, its minimum and maximum are NaN, and both comparisons fail.
    if samples.min(initial=0) >= -MAX_PEAK and samples.max(initial=0) <= MAX_PEAK:
        return
    at = int((~(np.abs(samples) <= MAX_PEAK)).argmax())
    message = (
        f"{name} has the value {samples.flat[at]:g} in frame {first_frame + at // samples.shape[1]}; values must be "
        f"finite and scaled to [-1, 1]; peaks of up to {MAX_PEAK:g} are clipped"
    )
    raise InvalidArgument("DAMAGED_AUDIO", message, field=field)


@contextmanager
def _turn(num_values: int) -> Iterator[None]:
    """Waits while enough large files are being decoded; small ones need not."""
    if num_values <= LARGE_VALUES:
        yield
        return
    with _large:
        yield


def _soundfile() -> Any:
    try:
        import soundfile
    except ImportError as error:
        message = "reading audio needs the package soundfile: pip install 'deepseek-mesh[ingest]'"
        raise FailedPrecondition("PACKAGE_MISSING", message) from error
    return soundfile


def _brief(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):  # whose message tells an address in memory
        return "its first bytes are those of no PNG, JPEG or WebP file"
    # Only libsndfile's own message: the text around it includes a memory address.
    return (getattr(error, "error_string", "") or str(error) or type(error).__name__)[:200]
