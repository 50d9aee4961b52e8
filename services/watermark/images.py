"""Marks images and finds marks in them.

An image is marked, read again from the very file that is handed out, and only then are its digest and with it the mark
made known. A call that is repeated under its request id makes the same file: where the pattern begins, which is chance
otherwise, follows from the key and from what the registry's answer hangs on.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from common.errors import FailedPrecondition, InvalidArgument
from deepseek.watermark.image.detector import ImageDetection, ImageDetector
from deepseek.watermark.image.files import ImageFile, read_image
from deepseek.watermark.image.marker import MIN_SIDE, PSNR_DB, ImageMarker, Quality, quality
from deepseek.watermark.keys import WatermarkKey
from services.watermark.keys import Keys, Marking
from services.watermark.search import Outcome, look
from services.watermark.turns import Turns
from services.watermark.watermarks import Watermarks, watermark_name

ENCODING_QUALITY = 95
MODALITY = "image"

_MIN_PSNR_DB, _MAX_PSNR_DB = 30.0, 60.0
_NUM_CACHED = 32


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
        self._marker: Callable[[WatermarkKey, float], ImageMarker] = lru_cache(_NUM_CACHED)(_make_marker)
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
        psnr_db, level = min_psnr_db or PSNR_DB, encoding_quality or ENCODING_QUALITY
        if not _MIN_PSNR_DB <= psnr_db <= _MAX_PSNR_DB:
            message = f"min_psnr_db is {psnr_db:g}; take {_MIN_PSNR_DB:g} to {_MAX_PSNR_DB:g}, or 0 for {PSNR_DB}"
            raise InvalidArgument("BAD_VALUE", message, field="min_psnr_db")
        if not 1 <= level <= 100:
            message = f"encoding_quality is {level}; take 1 to 100, or 0 for {ENCODING_QUALITY}"
            raise InvalidArgument("BAD_VALUE", message, field="encoding_quality")
        with self._turns.take(patient=patient):
            file = self._read(image)
            _check_sides(file)
            marking = self._keys.for_marking(tenant, MODALITY, method="MarkImage", request_id=request_id, body=body)
            key = marking.key
            message_id = self._watermarks.create(tenant, MODALITY, model_version, key.epoch, marking.request_id)
            marked = self._marker(key, psnr_db).mark(file.pixels, message_id, random=_origin(marking))
            data = file.encoded(marked, quality=level)
            if len(data) > self._limits.max_marked_bytes:
                message = (
                    f"the marked file would have {len(data)} bytes, and fit no message; send JPEG, or a smaller one"
                )
                raise InvalidArgument("IMAGE_TOO_LARGE", message, field="image")
            if self._detector(key).detect(read_image(data).pixels, search=False).id != message_id:
                message = f"the mark cannot be read again at {psnr_db:g} dB and quality {level}; lower min_psnr_db"
                raise FailedPrecondition("MARK_TOO_WEAK", message, field="min_psnr_db")
            self._watermarks.set_content(tenant, message_id, hashlib.sha256(data).hexdigest(), len(data))
            return MarkedImage(data, watermark_name(message_id), quality(file.pixels, marked))

    def detect(
        self, tenant: str, image: bytes, *, locate: bool, aligned_only: bool, patient: bool
    ) -> Outcome[ImageDetection]:
        """Looks for a mark, by every key that is not revoked.

        Args:
            tenant: Whose marks.
            image: A file.
            locate: Whether to tell the region.
            aligned_only: Whether to look only for what was neither turned nor cropped.
            patient: As `Turns.take` has it.

        Raises:
            MeshError: As DetectImage documents.
        """
        with self._turns.take(patient=patient):
            pixels = self._read(image).pixels

            def detect(key: WatermarkKey) -> ImageDetection:
                return self._detector(key).detect(pixels, search=not aligned_only, locate=locate)

            return look(self._keys.for_finding(tenant, MODALITY), detect)

    def _read(self, image: bytes) -> ImageFile:
        if len(image) > self._limits.max_image_bytes:
            message = f"the file has {len(image)} bytes; at most {self._limits.max_image_bytes} are taken"
            raise InvalidArgument("IMAGE_TOO_LARGE", message, field="image")
        return read_image(image)


def _make_marker(key: WatermarkKey, psnr_db: float) -> ImageMarker:
    return ImageMarker(key, psnr_db=psnr_db)


def _check_sides(file: ImageFile) -> None:
    """Refuses what is too small to mark before an id is drawn for it."""
    height, width = file.pixels.shape[:2]
    if min(height, width) < MIN_SIDE:
        message = f"the image has {width} x {height} pixels; sides of {MIN_SIDE} are the least that hold a mark"
        raise InvalidArgument("IMAGE_TOO_SMALL", message, field="image")


def _origin(marking: Marking) -> np.random.Generator:
    secret = marking.key.subkey("image/origin")
    seed = hashlib.blake2b(marking.request_id.encode(), key=secret, digest_size=16).digest()
    return np.random.default_rng(int.from_bytes(seed, "little"))
