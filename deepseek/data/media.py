"""Decoding of images and sound that strangers may have sent.

Everything that turns encoded bytes into pixels or samples goes through here, so the limits and the error are the same
for an upload, for training and for a served request. Only the formats that the ingest protocol names are tried: each
further decoder is attack surface. Nothing is resized or resampled here (`deepseek.data.encoders`).
"""

import io
import struct
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from common.errors import FailedPrecondition, InvalidArgument

IMAGE_FORMATS = ("PNG", "JPEG", "WEBP")
AUDIO_FORMATS = ("WAV", "WAVEX", "FLAC", "OGG")
MAX_PIXELS = 64 * 1024 * 1024
"""Larger images are refused before they are decoded."""
MAX_AUDIO_VALUES = 256 * 1024 * 1024
"""Longer recordings (frames times channels) are refused before they are decoded."""

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


def decode_image(data: bytes, *, mode: str = "RGB", field: str = "", name: str = "image") -> Image.Image:
    """Decodes an image wholly.

    Args:
        data: An encoded PNG, JPEG or WebP file; of an animation the first frame is taken.
        mode: Pillow mode of the result, e.g. `RGB` or `L`.
        field: Path of the value for the error.
        name: What to call it in the message, e.g. a file's path.

    Returns:
        The pixels, detached from `data`.

    Raises:
        InvalidArgument: DAMAGED_IMAGE if it is not such a file, is cut off or damaged, or has more than MAX_PIXELS.
    """
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            width, height = image.size
            if width * height > MAX_PIXELS:
                message = f"{name} has {width} x {height} pixels; at most {MAX_PIXELS} are decoded"
                raise InvalidArgument("DAMAGED_IMAGE", message, field=field)
            return image.convert(mode)
    except _DECODER_ERRORS as error:
        raise InvalidArgument("DAMAGED_IMAGE", f"{name} cannot be decoded: {_brief(error)}", field=field) from error


def check_image(data: bytes, *, field: str = "", name: str = "image") -> None:
    """Proves an image whole: its checksums, where the format has them, and every pixel.

    Raises:
        InvalidArgument: DAMAGED_IMAGE, as decode_image.
    """
    try:
        with Image.open(io.BytesIO(data), formats=IMAGE_FORMATS) as image:
            if image.format == "PNG":
                image.verify()  # decoding alone does not look at the checksum of the pixel data
    except _DECODER_ERRORS as error:
        raise InvalidArgument("DAMAGED_IMAGE", f"{name} cannot be decoded: {_brief(error)}", field=field) from error
    decode_image(data, field=field, name=name)


def decode_audio(data: bytes, *, field: str = "", name: str = "audio") -> tuple[npt.NDArray[np.float32], int]:
    """Decodes a recording wholly.

    Args:
        data: An encoded WAV, FLAC or Ogg file.
        field: Path of the value for the error.
        name: What to call it in the message, e.g. a file's path.

    Returns:
        float32 [frames, channels] in [-1, 1], and the sampling rate in Hz.

    Raises:
        InvalidArgument: DAMAGED_AUDIO if it is not such a file, is cut off or damaged, or is too long.
    """
    soundfile = _soundfile()
    try:
        with soundfile.SoundFile(io.BytesIO(data)) as recording:
            if recording.format not in AUDIO_FORMATS:
                message = f"{name} is {recording.format}; WAV, FLAC and Ogg are read"
                raise InvalidArgument("DAMAGED_AUDIO", message, field=field)
            if recording.frames * recording.channels > MAX_AUDIO_VALUES:
                message = f"{name} has {recording.frames} frames of {recording.channels} channels; that is too long"
                raise InvalidArgument("DAMAGED_AUDIO", message, field=field)
            samples = recording.read(dtype="float32", always_2d=True)
            num_frames, rate = recording.frames, int(recording.samplerate)
    except _DECODER_ERRORS as error:
        raise InvalidArgument("DAMAGED_AUDIO", f"{name} cannot be decoded: {_brief(error)}", field=field) from error
    if len(samples) != num_frames or not num_frames:
        message = f"{name} is cut off: {len(samples)} of {num_frames} frames could be read"
        raise InvalidArgument("DAMAGED_AUDIO", message, field=field)
    return samples, rate


def _soundfile() -> Any:
    try:
        import soundfile
    except ImportError as error:
        message = "reading audio needs the package soundfile: pip install 'deepseek-mesh[ingest]'"
        raise FailedPrecondition("PACKAGE_MISSING", message) from error
    return soundfile


def _brief(error: BaseException) -> str:
    return (str(error) or type(error).__name__)[:200]
