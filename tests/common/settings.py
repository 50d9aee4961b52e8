"""Settings of a service that exists in tests only."""

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from common.auth import Role
from common.config import Address, Port, StoreSettings, load_settings


class ExampleSettings(StoreSettings):
    service: ClassVar[str] = "example"
    port: Port = 7999
    registry: Address = "127.0.0.1:7001"


class CalledSettings(ExampleSettings):
    callers: ClassVar[Mapping[str, Role]] = MappingProxyType({"trainer": Role.WRITER})


def example_settings(home: Path, *flags: str, cls: type[ExampleSettings] = ExampleSettings) -> ExampleSettings:
    return load_settings(cls, ["--home", str(home), "--port", "0", *flags])
