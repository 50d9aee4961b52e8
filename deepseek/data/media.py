"""Decodes untrusted images and audio.

All encoded media are decoded here, so the same limits and errors apply to uploads, training and served requests. Only
the formats of the ingest protocol are enabled, because each additional decoder adds attack surface. To limit memory
use, only a few large images or recordings are decoded at a time. Four things are handled elsewhere: the conversion to
the pixels that image viewers show (`pictures`), the repair of files (`png` and `audio_headers`), the quick check of
small JPEG files (`jpeg`), and resizing (`encoders`).
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
from deepseek.data import audio_headers, jpeg, pictures, png

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")
AUDIO_FORMATS = ("WAV", "WAVEX", "FLAC", "OGG")
MAX_PIXELS = 64 * 1024 * 1024
"""Maximum number of pixels in an image. Larger images are rejected before decoding. To decode an image of this size,
Pillow needs 256 MiB (4 bytes per pixel)."""
MAX_AUDIO_VALUES = 32 * 1024 * 1024
"""Maximum number of values (frames times channels) in a recording. Longer recordings are rejected before decoding. A
recording of this size needs 128 MiB when decoded; in mono at 44.1 kHz, it lasts 12 minutes."""
MAX_PEAK = 100.0
"""Maximum absolute value in a recording. Recordings with greater values are rejected. Such values are more than 40 dB
above full scale, which indicates integers that were not scaled to [-1, 1]."""
MAX_LARGE = 2
"""Maximum number of large files that a process decodes at a time. Any other large file waits until one of them is done.
A file is large if it has more than LARGE_VALUES pixels or audio values."""
LARGE_VALUES = 1024 * 1024
_BLOCK_VALUES = 64 * 1024

# Errors that Pillow's decoders raise for damaged input. They were found by Pillow's fuzz tests and by those of this
# project. MemoryError is included because a damaged header may request any amount of memory.
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


# A forked child gets a new semaphore, because it lacks the threads that would release the one it inherits.
os.register_at_fork(after_in_child=_forget_parents_turns)


def decode_image(data: bytes, *, mode: str = "RGB", field: str = "", name: str = "image") -> Image.Image:
    """Decodes a whole image to the pixels that image viewers show.

    Args:
        data: Content of a PNG, JPEG or WebP file. If the file is an animation, the first frame is decoded.
        mode: `RGB` or `L`.
        field: Path of the value in the caller's request, for use in errors.
        name: Name of the value in error messages, e.g. a file's path.

    Returns:
        The image as returned by `pictures.as_shown`. It holds no reference to `data`.

    Raises:
        InvalidArgument: DAMAGED_IMAGE if `data` is damaged, truncated or in any other format, or if the image has more
            than MAX_PIXELS pixels.
    """
    with open_image(data, field=field, name=name) as image:
        return pictures.as_shown(image, mode)


@contextmanager
def open_image(data: bytes, *, field: str = "", name: str = "image") -> Iterator[Image.Image]:
    """Opens an image without decoding it, for callers that need more than the pixels, e.g. the metadata.

    The image can be used, and its pixels can be decoded, only within the context.

    Args:
        data: See `decode_image`.
        field: See `decode_image`.
        name: See `decode_image`.

    Raises:
        InvalidArgument: DAMAGED_IMAGE, as in `decode_image`. Decoder errors that occur within the context are also
            converted to this error.
    """
    try:
        with _pillow_image(data) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                message = f"{name} has {width} x {height} pixels; at most {MAX_PIXELS} are decoded, so scale it down"
                raise InvalidArgument("DAMAGED_IMAGE", message, field=field)
            with _turn(width * height):
                yield image
    except _DECODER_ERRORS as error:
        raise InvalidArgument("DAMAGED_IMAGE", f"{name} cannot be decoded: {_brief(error)}", field=field) from error


def is_too_large(data: bytes, max_side: int) -> bool:
    """Returns whether an image has a side longer than `max_side`, or more than MAX_PIXELS pixels.

    Pixels are not decoded. The result is False if the header is damaged.
    """
    try:
        with _pillow_image(data) as image:
            return max(image.size) > max_side or image.width * image.height > MAX_PIXELS
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        return True
    except _DECODER_ERRORS:
        return False


def check_image(data: bytes, *, field: str = "", name: str = "image") -> None:
    """Checks that an image is complete: decodes all pixels and, if it is a PNG file, verifies the checksums.

    Raises:
        InvalidArgument: DAMAGED_IMAGE, as in `decode_image`.
    """
    if jpeg.is_complete(data):
        return
    with open_image(data, field=field, name=name) as image:
        if image.format != "PNG":
            image.load()
            return
        image.verify()  # decoding alone does not check the checksum of the pixel data
    with open_image(data, field=field, name=name) as image:  # a verified image cannot be decoded
        image.load()


def _pillow_image(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(png.readable(data)), formats=IMAGE_FORMATS)


def decode_audio(data: bytes, *, field: str = "", name: str = "audio") -> tuple[npt.NDArray[np.float32], int]:
    """Decodes a whole recording.

    Args:
        data: Content of a WAV, FLAC or Ogg file.
        field: Path of the value in the caller's request, for use in errors.
        name: Name of the value in error messages, e.g. a file's path.

    Returns:
        The audio values, float32 [frames, channels], clipped to [-1, 1]; and the sampling rate in Hz.

    Raises:
        InvalidArgument: DAMAGED_AUDIO if `data` is damaged, is truncated, is in any other format or contains no audio;
            if the recording has more than MAX_AUDIO_VALUES values; or if any value is not finite, or has an absolute
            value above MAX_PEAK.
        FailedPrecondition: PACKAGE_MISSING if the package soundfile is not installed.
    """
    with _recording(data, field, name) as recording, _turn(recording.frames * recording.channels):
        samples = np.empty((recording.frames, recording.channels), np.float32)
        num_read = len(recording.read(out=samples))
        _check_length(num_read, recording.frames, field, name)
        _check_values(samples, 0, field, name)
        return np.clip(samples, -1, 1, out=samples), int(recording.samplerate)


def check_audio(data: bytes, *, field: str = "", name: str = "audio") -> None:
    """Checks that a recording is complete by decoding it block by block, without keeping the frames.

    Raises:
        InvalidArgument: DAMAGED_AUDIO, as in `decode_audio`.
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
    """Opens a recording and checks its format and length. Decoder errors within the context become DAMAGED_AUDIO."""
    soundfile = _soundfile()
    try:
        with soundfile.SoundFile(io.BytesIO(audio_headers.with_actual_length(data))) as recording:
            if recording.format not in AUDIO_FORMATS:
                message = f"{name} has the format {recording.format}; convert it to WAV, FLAC or Ogg"
                raise InvalidArgument("DAMAGED_AUDIO", message, field=field)
            if recording.frames * recording.channels > MAX_AUDIO_VALUES:
                shape = f"{recording.frames} frames of {recording.channels} channels"
                message = f"{name} is too long: {shape}; at most {MAX_AUDIO_VALUES} values are decoded, so split it"
                raise InvalidArgument("DAMAGED_AUDIO", message, field=field)
            yield recording
    except _DECODER_ERRORS as error:
        raise InvalidArgument("DAMAGED_AUDIO", f"{name} cannot be decoded: {_brief(error)}", field=field) from error


def _check_length(num_read: int, num_frames: int, field: str, name: str) -> None:
    if not num_frames:
        raise InvalidArgument("DAMAGED_AUDIO", f"{name} contains no audio", field=field)
    if num_read != num_frames:
        message = f"{name} is truncated: only {num_read} of {num_frames} frames could be read"
        raise InvalidArgument("DAMAGED_AUDIO", message, field=field)


def _check_values(samples: npt.NDArray[np.float32], first_frame: int, field: str, name: str) -> None:
    """Rejects values that are not finite or whose absolute value is above MAX_PEAK.

    Args:
        samples: Part of a recording, [frames, channels].
        first_frame: Index of the first frame of `samples` in the recording.
        field: See `decode_audio`.
        name: See `decode_audio`.
    """
    # If the block contains NaN, its minimum and maximum are NaN, so both comparisons are False.
    if samples.min(initial=0) >= -MAX_PEAK and samples.max(initial=0) <= MAX_PEAK:
        return
    at = int((~(np.abs(samples) <= MAX_PEAK)).argmax())
    message = (
        f"{name} has the value {samples.flat[at]:g} in frame {first_frame + at // samples.shape[1]}; values must be "
        f"finite and scaled to [-1, 1], though peaks of up to {MAX_PEAK:g} are accepted and clipped"
    )
    raise InvalidArgument("DAMAGED_AUDIO", message, field=field)


@contextmanager
def _turn(num_values: int) -> Iterator[None]:
    """Waits for one of the MAX_LARGE slots, and holds it within the context. Small files need no slot."""
    if num_values <= LARGE_VALUES:
        yield
        return
    with _large:
        yield


def _soundfile() -> Any:
    try:
        import soundfile
    except ImportError as error:
        message = "reading audio requires the package soundfile; install it: pip install 'deepseek-mesh[ingest]'"
        raise FailedPrecondition("PACKAGE_MISSING", message) from error
    return soundfile


def _brief(error: BaseException) -> str:
    if isinstance(error, UnidentifiedImageError):  # its message contains a memory address
        return "it does not begin like a PNG, JPEG or WebP file"
    # Only libsndfile's own message: the text around it includes a memory address.
    return (getattr(error, "error_string", "") or str(error) or type(error).__name__)[:200]
