"""Marks images and detects marks in them.

The mark is read back from the marked file before the registry learns the digest of that file. A call that is repeated
with the same request id returns the same file, because the pattern's random origins depend only on the key and on
`MarkingKey.request_id`.

During a call to the registry, no work slot is held, so that a hanging registry does not block detection. No pixels are
kept in memory during such a call either: an image is decoded before its id is drawn, and again afterwards.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from common.database import Repeatable
from common.errors import FailedPrecondition, InvalidArgument
from deepseek.watermark.image.detector import ImageDetection, ImageDetector
from deepseek.watermark.image.files import ImageFile, read_image
from deepseek.watermark.image.marker import PSNR_DB, ImageMarker
from deepseek.watermark.image.pixels import check_size
from deepseek.watermark.image.quality import Quality, quality
from deepseek.watermark.keys import WatermarkKey
from services.watermark.disclosure import coarse_region
from services.watermark.keys import KeyStore, MarkingKey
from services.watermark.ports import Registry
from services.watermark.resources import watermark_name
from services.watermark.search import CombinedDetection, detect_with_keys
from services.watermark.slots import WorkSlots

ENCODING_QUALITY = 95
MODALITY = "image"

_MIN_PSNR_DB, _MAX_PSNR_DB = 30.0, 60.0
_LOW_QUALITY = 50
_NUM_CACHED = 64


@dataclass(frozen=True)
class MarkedImage:
    """A marked image.

    Attributes:
        data: Marked image file.
        watermark: `watermarks/<id>`.
        quality: Similarity of the marked pixels to the original, measured before encoding.
    """

    data: bytes
    watermark: str
    quality: Quality


@dataclass(frozen=True)
class Limits:
    """Maximum sizes of image files, in bytes.

    Attributes:
        max_image_bytes: Limit for an image that is to be marked, or searched for a mark.
        max_marked_bytes: Limit for a marked image, which must fit in a message.
    """

    max_image_bytes: int
    max_marked_bytes: int


class ImageWatermarks:
    """Marks images and detects marks. Thread-safe.

    Args:
        keys: Keys of all tenants.
        registry: Registry, which draws the ids of marks.
        slots: Work slots, which limit concurrent processing.
        limits: Maximum sizes of files.
    """

    def __init__(self, keys: KeyStore, registry: Registry, slots: WorkSlots, limits: Limits) -> None:
        self._keys = keys
        self._registry = registry
        self._slots = slots
        self._limits = limits
        # Only markers of the default strength are cached, because callers may choose arbitrary other strengths.
        self._marker: Callable[[WatermarkKey], ImageMarker] = lru_cache(_NUM_CACHED)(ImageMarker)
        self._detector: Callable[[WatermarkKey], ImageDetector] = lru_cache(_NUM_CACHED)(ImageDetector)

    def mark(
        self,
        tenant: str,
        image: bytes,
        call: Repeatable,
        *,
        model_version: str,
        min_psnr_db: float,
        encoding_quality: int,
        may_queue_freely: bool,
    ) -> MarkedImage:
        """Marks an image.

        Args:
            tenant: Tenant that owns the mark.
            image: Image file.
            call: Identity of the call, used to recognize repeats.
            model_version: Model version that generated the image; empty if no version in the registry did.
            min_psnr_db: Minimum peak signal-to-noise ratio of the marked image relative to the original, in dB; 0 means
                42.1.
            encoding_quality: Quality for lossy formats, 1 to 100; 0 means 95.
            may_queue_freely: See `WorkSlots.acquire`.

        Raises:
            MeshError: The errors documented for MarkImage.
        """
        level = encoding_quality or ENCODING_QUALITY
        if min_psnr_db and not _MIN_PSNR_DB <= min_psnr_db <= _MAX_PSNR_DB:
            message = (
                f"min_psnr_db is {min_psnr_db:g}; it must be {_MIN_PSNR_DB:g} to {_MAX_PSNR_DB:g}, or 0 for {PSNR_DB}"
            )
            raise InvalidArgument("BAD_VALUE", message, field="min_psnr_db")
        if not 1 <= level <= 100:
            message = f"encoding_quality is {level}; it must be 1 to 100, or 0 for {ENCODING_QUALITY}"
            raise InvalidArgument("BAD_VALUE", message, field="encoding_quality")
        with self._slots.acquire(may_queue_freely=may_queue_freely):
            _check_markable(self._read(image))
        marking = self._keys.marking_key(tenant, MODALITY, call)
        message_id = self._registry.create_watermark(
            tenant, MODALITY, model_version, marking.key.epoch, marking.request_id
        )
        with self._slots.acquire(may_queue_freely=may_queue_freely):
            marked = self._marked(self._read(image), marking, message_id, min_psnr_db, level)
        self._keys.check_usable(marking.key)
        self._registry.set_watermark_content(
            tenant, message_id, hashlib.sha256(marked.data).hexdigest(), len(marked.data)
        )
        return marked

    def detect(
        self, tenant: str, image: bytes, *, locate: bool, aligned_only: bool, exact: bool, may_queue_freely: bool
    ) -> CombinedDetection[ImageDetection]:
        """Detects a mark made with one of the tenant's unrevoked keys.

        Args:
            tenant: Tenant that owns the marks.
            image: Image file.
            locate: Whether to return the region that carries the mark.
            aligned_only: Whether to skip the search for marks in images rotated, scaled or cropped after marking.
            exact: Whether to return the exact edges of the region. If false, they are rounded (see `disclosure`).
            may_queue_freely: See `WorkSlots.acquire`.

        Raises:
            MeshError: The errors documented for DetectImage.
        """
        with self._slots.acquire(may_queue_freely=may_queue_freely):
            pixels = self._read(image).flattened()

            def detect(key: WatermarkKey) -> ImageDetection:
                return self._detector(key).detect(pixels, search=not aligned_only, locate=locate)

            outcome = detect_with_keys(self._keys.detection_keys(tenant, MODALITY), detect)
        if outcome.mark is None or outcome.mark.region is None or exact:
            return outcome
        region = coarse_region(outcome.mark.region, *pixels.shape[:2])
        return replace(outcome, detection=replace(outcome.mark, region=region))

    def _marked(
        self, file: ImageFile, marking: MarkingKey, message_id: int, min_psnr_db: float, level: int
    ) -> MarkedImage:
        """Marks an image, and checks that the mark can be read back from the marked file."""
        key = marking.key
        marker = ImageMarker(key, psnr_db=min_psnr_db) if min_psnr_db else self._marker(key)
        pixels = marker.mark(file.pixels, message_id, random=_random(marking), alpha=file.alpha)
        reached = quality(file.pixels, pixels, file.alpha)
        data = file.encoded(pixels, quality=level)
        if len(data) > self._limits.max_marked_bytes:
            message = (
                f"the marked file would have {len(data)} bytes, too many for a message; send a JPEG or a smaller image"
            )
            raise InvalidArgument("IMAGE_TOO_LARGE", message, field="image")
        detector = self._detector(key)
        if detector.detect(read_image(data).flattened(), search=False).id != message_id:
            earlier = detector.detect(file.flattened(), search=False).id
            if earlier is not None:
                message = f"the image already carries {watermark_name(earlier)}, which hides a second mark of this key"
                raise FailedPrecondition("ALREADY_MARKED", f"{message}; mark the original image instead", field="image")
            # By default, small images are marked more strongly, so the error states the ratio that was reached.
            raise _too_weak(file.format, min_psnr_db or min(PSNR_DB, reached.psnr_db), level)
        return MarkedImage(data, watermark_name(message_id), reached)

    def _read(self, image: bytes) -> ImageFile:
        if len(image) > self._limits.max_image_bytes:
            message = f"the file has {len(image)} bytes; at most {self._limits.max_image_bytes} are accepted"
            raise InvalidArgument("IMAGE_TOO_LARGE", message, field="image")
        return read_image(image)


def _check_markable(file: ImageFile) -> None:
    """Rejects an image that cannot be marked, so that no id is drawn for such an image."""
    check_size(file.pixels)
    file.check_held()


def _too_weak(format: str, psnr_db: float, level: int) -> FailedPrecondition:
    """Returns the error for a mark that cannot be read back. The message states the most effective remedy."""
    if format != "PNG" and level < _LOW_QUALITY:
        message, field = f"encoding at quality {level} destroys the mark; raise encoding_quality", "encoding_quality"
    elif psnr_db > _MIN_PSNR_DB:
        message, field = f"the mark cannot be read back at {psnr_db:.1f} dB; lower min_psnr_db", "min_psnr_db"
    else:
        message, field = "the image has too little texture to carry a mark", "image"
    return FailedPrecondition("MARK_TOO_WEAK", message, field=field)


def _random(marking: MarkingKey) -> np.random.Generator:
    """Returns the random generator that draws the origins of the pattern."""
    secret = marking.key.subkey("image/origin")
    seed = hashlib.blake2b(marking.request_id.encode(), key=secret, digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(seed, "<u8")))
