"""Settings of the watermark service; see `common.config.ServiceSettings` for those that every service has."""

from pathlib import Path
from typing import ClassVar

from pydantic import Field

from common.config import Address, Port, ServiceSettings
from common.cores import num_cores


class WatermarkSettings(ServiceSettings):
    """The watermark service needs a database, the registry, and the master secret of all keys."""

    service: ClassVar[str] = "watermark"

    port: Port = Field(7006, description="Port to listen on; 0 takes a free one", ge=0, le=65535)
    registry: Address = Field("127.0.0.1:7001", description="host:port of the registry, which knows what ids stand for")
    master_key_file: Path | None = Field(
        None,
        description="File with at least 32 random bytes, raw or as hexadecimal digits, that nobody else can read; "
        "default: one in home, made when it is first needed",
    )
    max_image_bytes: int = Field(32 << 20, description="Size of an image's file, bytes", gt=0)
    max_at_once: int = Field(
        default_factory=num_cores,
        description="Images and texts that are worked on at once; each image may have 64 Mi pixels, and need 20 bytes "
        "of memory a pixel, 25 with transparency",
        gt=0,
    )
    max_waiting: int = Field(4, description="Calls that wait for their turn; more are refused", ge=0)
    max_detections_per_minute: int = Field(
        600, description="Detections that one user may ask for a minute in the long run, and at once", gt=0
    )
    max_stream_tokens: int = Field(2_000_000, description="Tokens that are drawn in one stream", gt=0)
