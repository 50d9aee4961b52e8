"""Settings of the registry; see `common.config.ServiceSettings` for those that every service has."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import ClassVar

from pydantic import Field

from common.auth import Role
from common.config import Port, ServiceSettings


class RegistrySettings(ServiceSettings):
    """The registry needs a database and nothing else: it never opens the blobs it knows of."""

    service: ClassVar[str] = "registry"
    callers: ClassVar[Mapping[str, Role]] = MappingProxyType(
        {"ingest": Role.WRITER, "trainer": Role.WRITER, "inference": Role.READER, "watermark": Role.WRITER}
    )

    port: Port = Field(7001, description="Port to listen on; 0 takes a free one", ge=0, le=65535)
