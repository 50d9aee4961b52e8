"""Marks images and finds marks in them.

An image is marked, read again from the very file that is handed out, and only then are its digest and with it the mark
made known. A call that is repeated under its request id makes the same file: which origins are tried for the pattern,
chance otherwise, follows from the key and from what the registry's answer hangs on.

Turns are for what takes memory and cores, never held while the registry is asked: one that hangs must not keep others
from finding marks. Pixels are not held either, so an image is decoded twice, before an id is drawn for it and after.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.watermark.image.detector import ImageDetection, ImageDetector
from deepseek.watermark.image.files import ImageFile, read_image
from deepseek.watermark.image.marker import PSNR_DB, ImageMarker, Quality, check_size, quality
from deepseek.watermark.keys import WatermarkKey
from services.watermark.keys import Keys, Marking
from services.watermark.oracle import rounded_region
from services.watermark.search import Outcome, look
from services.watermark.turns import Turns
from services.watermark.watermarks import Watermarks, watermark_name

ENCODING_QUALITY = 95
MODALITY = "image"

_MIN_PSNR_DB, _MAX_PSNR_DB = 30.0, 60.0
_LOW_QUALITY = 50
_NUM_CACHED = 64


@dataclass(frozen=True)
class MarkedImage:
    """A marked image.

    Attributes:
        data: The file.
        watermark: `watermarks/<id>`.
        quality: How close it is to the original, before it was encoded.
    """

    data: bytes
    watermark: str
    quality: Quality


@dataclass(frozen=True)
class Limits:
    """Sizes of files, bytes.

    Attributes:
        max_image_bytes: Of one that comes.
        max_marked_bytes: Of one that goes: it has to fit a message.
    """

    max_image_bytes: int
    max_marked_bytes: int


class Images:
    """Marks and finds. Thread-safe.

    Args:
        keys: Of all tenants.
        watermarks: The registry.
        turns: Who may work now.
        limits: Sizes.
    """

    def __init__(self, keys: Keys, watermarks: Watermarks, turns: Turns, limits: Limits) -> None:
        self._keys = keys
        self._watermarks = watermarks
        self._turns = turns
        self._limits = limits
        # Of the default strength: others are made when they are needed, as there are as many as callers like.
        self._marker: Callable[[WatermarkKey], ImageMarker] = lru_cache(_NUM_CACHED)(ImageMarker)
        self._detector: Callable[[WatermarkKey], ImageDetector] = lru_cache(_NUM_CACHED)(ImageDetector)

    def mark(
        self,
        tenant: str,
        image: bytes,
        *,
        model_version: str,
        min_psnr_db: float,
        encoding_quality: int,
        request_id: str,
        body: bytes,
        patient: bool,
    ) -> MarkedImage:
        """Marks an image.

        Args:
            tenant: Whose mark.
            image: A file.
            model_version: What made it; empty if none of the registry's did.
            min_psnr_db: Least peak signal to noise ratio, dB; 0 means 42.1.
            encoding_quality: Of lossy formats; 0 means 95.
            request_id: Makes repeats harmless; empty for no protection.
            body: The request's bytes, compared when the id comes again.
            patient: As `Turns.take` has it.

        Raises:
            MeshError: As MarkImage documents.
        """
        level = encoding_quality or ENCODING_QUALITY
        if min_psnr_db and not _MIN_PSNR_DB <= min_psnr_db <= _MAX_PSNR_DB:
            message = f"min_psnr_db is {min_psnr_db:g}; take {_MIN_PSNR_DB:g} to {_MAX_PSNR_DB:g}, or 0 for {PSNR_DB}"
            raise InvalidArgument("BAD_VALUE", message, field="min_psnr_db")
        if not 1 <= level <= 100:
            message = f"encoding_quality is {level}; take 1 to 100, or 0 for {ENCODING_QUALITY}"
            raise InvalidArgument("BAD_VALUE", message, field="encoding_quality")
        with self._turns.take(patient=patient):
            _check_markable(self._read(image))
        marking = self._keys.for_marking(tenant, MODALITY, method="MarkImage", request_id=request_id, body=body)
        message_id = self._watermarks.create(tenant, MODALITY, model_version, marking.key.epoch, marking.request_id)
        with self._turns.take(patient=patient):
            marked = self._marked(self._read(image), marking, message_id, min_psnr_db, level)
        self._keys.check_usable(marking.key)
        self._watermarks.set_content(tenant, message_id, hashlib.sha256(marked.data).hexdigest(), len(marked.data))
        return marked

    def detect(
        self, tenant: str, image: bytes, *, locate: bool, aligned_only: bool, exact: bool, patient: bool
    ) -> Outcome[ImageDetection]:
        """Looks for a mark, by every key that is not revoked.

        Args:
            tenant: Whose marks.
            image: A file.
            locate: Whether to tell the region.
            aligned_only: Whether to look only for what was neither turned nor cropped.
            exact: Whether to tell the region to the pixel.
            patient: As `Turns.take` has it.

        Raises:
            MeshError: As DetectImage documents.
        """
        with self._turns.take(patient=patient):
            pixels = self._read(image).flattened()

            def detect(key: WatermarkKey) -> ImageDetection:
                return self._detector(key).detect(pixels, search=not aligned_only, locate=locate)

            outcome = look(self._keys.for_finding(tenant, MODALITY), detect)
        if outcome.mark is None or outcome.mark.region is None or exact:
            return outcome
        region = rounded_region(outcome.mark.region, *pixels.shape[:2])
        return replace(outcome, detection=replace(outcome.mark, region=region))

    def _marked(
        self, file: ImageFile, marking: Marking, message_id: int, min_psnr_db: float, level: int
    ) -> MarkedImage:
        """Marks, and reads the mark again."""
        key = marking.key
        marker = ImageMarker(key, psnr_db=min_psnr_db) if min_psnr_db else self._marker(key)
        pixels = marker.mark(file.pixels, message_id, random=_random(marking), alpha=file.alpha)
        reached = quality(file.pixels, pixels, file.alpha)
        data = file.encoded(pixels, quality=level)
        if len(data) > self._limits.max_marked_bytes:
            message = f"the marked file would have {len(data)} bytes, and fit no message; send JPEG, or a smaller one"
            raise InvalidArgument("IMAGE_TOO_LARGE", message, field="image")
        if self._detector(key).detect(read_image(data).flattened(), search=False).id != message_id:
            # What small images were given by default may be less.
            raise _too_weak(file.format, min_psnr_db or min(PSNR_DB, reached.psnr_db), level)
        return MarkedImage(data, watermark_name(message_id), reached)

    def _read(self, image: bytes) -> ImageFile:
        if len(image) > self._limits.max_image_bytes:
            message = f"the file has {len(image)} bytes; at most {self._limits.max_image_bytes} are taken"
            raise InvalidArgument("IMAGE_TOO_LARGE", message, field="image")
        return read_image(image)


def _check_markable(file: ImageFile) -> None:
    """Refuses what cannot be marked before an id is drawn for it."""
    check_size(file.pixels)
    file.check_held()


def _too_weak(format: str, psnr_db: float, level: int) -> FailedPrecondition:
    """The error of a mark that cannot be read again, with what helps most."""
    if format != "PNG" and level < _LOW_QUALITY:
        message, field = f"quality {level} takes the mark away; raise encoding_quality", "encoding_quality"
    elif psnr_db > _MIN_PSNR_DB:
        message, field = f"the mark cannot be read again at {psnr_db:.1f} dB; take a lower min_psnr_db", "min_psnr_db"
    else:
        message, field = "the image hides so little that it cannot be marked", "image"
    return FailedPrecondition("MARK_TOO_WEAK", message, field=field)


def _random(marking: Marking) -> np.random.Generator:
    """Draws the origins that are tried."""
    secret = marking.key.subkey("image/origin")
    seed = hashlib.blake2b(marking.request_id.encode(), key=secret, digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(seed, "<u8")))
