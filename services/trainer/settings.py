"""Settings of the trainer beyond those implied by the service's declaration in `deepseek/services.py`."""

from pydantic import Field

from common.config import ServiceSettings, settings_for
from deepseek.services import SERVICES


@settings_for(SERVICES, "trainer")
class TrainerSettings(ServiceSettings):
    """Trains models and exports them. The options of a single run are in its spec, not here."""

    max_runs: int = Field(
        1, description="Number of concurrent runs, each with an equal share of the cores; others wait", ge=1
    )
    max_exports: int = Field(
        1, description="Number of concurrent exports, and of concurrent imports; they do not wait for runs", ge=1
    )
    import_timeout_s: float = Field(300.0, description="Seconds that the check of an imported model may take", gt=0)
    lease_s: float = Field(
        4.0,
        description="Seconds after which another trainer resumes the jobs of a trainer that stopped answering",
        gt=0,
    )
    max_restarts: int = Field(
        3, description="Number of times a crashed run or export is restarted before it fails", ge=0
    )
    stop_grace_s: float = Field(
        8.0, description="Seconds that workers have for a last checkpoint when they are stopped", gt=0
    )
