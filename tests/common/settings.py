"""Settings of a service that exists in tests only."""

from pathlib import Path
from typing import ClassVar

from common.config import Address, Port, StoreSettings, load_settings


class ExampleSettings(StoreSettings):
    service: ClassVar[str] = "example"
    port: Port = 7999
    registry: Address = "127.0.0.1:7001"


def example_settings(home: Path, *flags: str) -> ExampleSettings:
    return load_settings(ExampleSettings, ["--home", str(home), "--port", "0", *flags])
