"""Settings of ingest beyond those implied by the service's declaration in `deepseek/services.py`."""

from pydantic import Field

from common.config import ServiceSettings, settings_for
from deepseek.services import SERVICES


@settings_for(SERVICES, "ingest")
class IngestSettings(ServiceSettings):
    """Receives samples and commits them as data set versions."""

    max_upload_bytes: int = Field(1 << 40, description="Maximum size of the samples of one upload, bytes", gt=0)
    max_open_bytes: int = Field(
        1 << 42, description="Maximum total size of the open uploads of one tenant, bytes", gt=0
    )
    upload_expiry_days: float = Field(
        7, description="Days without a write after which an open upload is deleted", gt=0, le=36_500
    )
