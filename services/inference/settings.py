"""Settings of the inference service; see `common.config.StoreSettings` for those that every service has."""

from typing import ClassVar, Literal

from pydantic import Field

from common.config import Address, Port, StoreSettings


class InferenceSettings(StoreSettings):
    """What serving models needs beyond a service's common settings."""

    service: ClassVar[str] = "inference"

    port: Port = Field(8001, description="Port to listen on; 0 takes a free one", ge=0, le=65535)
    registry: Address = Field(
        "127.0.0.1:7001", description="host:port of the registry, which is asked for what to load"
    )
    device: Literal["cpu", "cuda"] = Field("cpu", description="Where models run")
    intra_op_threads: int = Field(1, description="Threads of one request in an operator; 1 suits small models", gt=0)
