"""Settings of ingest; see `common.config.StoreSettings` for those that every service has."""

from typing import ClassVar

from pydantic import Field

from common.config import Address, Port, StoreSettings
from common.jobs.store import MAX_JOBS_PER_TENANT


class IngestSettings(StoreSettings):
    """Ingest needs a database, the artifact store and, to commit and to read, the registry."""

    service: ClassVar[str] = "ingest"

    port: Port = Field(7002, description="Port to listen on; 0 takes a free one", ge=0, le=65535)
    registry: Address = Field("127.0.0.1:7001", description="host:port of the registry")
    max_upload_bytes: int = Field(1 << 40, description="Bytes of samples that one upload may hold", gt=0)
    max_open_bytes: int = Field(1 << 42, description="Bytes that a tenant's open uploads may hold together", gt=0)
    max_jobs_per_tenant: int = Field(
        MAX_JOBS_PER_TENANT, description="Commits of one tenant that wait or are carried out", gt=0
    )
    upload_expiry_days: float = Field(
        7, description="Days without a write after which an open upload is dropped", gt=0, le=36_500
    )
