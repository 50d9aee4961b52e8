"""Settings of the tuner beyond those implied by the service's declaration in `deepseek/services.py`."""

from pydantic import Field

from common.config import JobSettings, settings_for
from deepseek.services import SERVICES


@settings_for(SERVICES, "tuner")
class TunerSettings(JobSettings):
    """Suggests parameters to try, and stores what was measured."""

    max_studies_in_memory: int = Field(
        32,
        description="Number of studies that are kept in memory; a study that is used again after it was dropped is "
        "first rebuilt from the database",
        gt=0,
    )
    max_studies_running: int = Field(
        4, description="Number of studies that are run on the trainer at the same time; others wait", ge=1
    )
    lease_s: float = Field(
        4.0,
        description="Seconds after which another tuner continues to run the studies of a tuner that stopped answering",
        gt=0,
    )
