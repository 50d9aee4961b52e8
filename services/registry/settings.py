"""Settings of the registry beyond those implied by the service's declaration in `deepseek/services.py`."""

from common.config import ServiceSettings, settings_for
from deepseek.services import SERVICES


@settings_for(SERVICES, "registry")
class RegistrySettings(ServiceSettings):
    """Keeps names, versions, aliases, lineage, watermarks and privacy budgets."""
