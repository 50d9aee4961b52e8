"""Settings of the watermark service beyond those implied by the service's declaration in `deepseek/services.py`."""

from pathlib import Path

from pydantic import Field

from common.config import ServiceSettings, settings_for
from common.cores import num_cores
from deepseek.services import SERVICES


@settings_for(SERVICES, "watermark")
class WatermarkSettings(ServiceSettings):
    """Marks images and texts invisibly, and detects marks."""

    master_key_file: Path | None = Field(
        None,
        description="File with at least 32 random bytes, raw or as hexadecimal digits, that only its owner can read; "
        "default: one in home, created when it is first needed",
    )
    max_image_bytes: int = Field(32 << 20, description="Maximum size of an image file, bytes", gt=0)
    max_at_once: int = Field(
        default_factory=num_cores,
        description="Number of images and texts processed at once; an image may have 64 Mi pixels, and needs 20 bytes "
        "of memory per pixel, 25 with transparency",
        gt=0,
    )
    max_waiting: int = Field(4, description="Number of calls that may queue for processing; more are refused", ge=0)
    max_detections_per_minute: int = Field(
        600, description="Detections that a user may request per minute on average, and in one burst", gt=0
    )
    max_stream_tokens: int = Field(2_000_000, description="Maximum number of tokens drawn per stream", gt=0)
