"""Settings of the example."""

from common.config import ServiceSettings, settings_for
from common.service import JOB_CONTRACT, Service, catalogue

EXAMPLE = Service(name="example", contract=JOB_CONTRACT, port=7999, metrics_port=9999)


@settings_for(catalogue(EXAMPLE), "example")
class Settings(ServiceSettings):
    """A service that hosts one gRPC service besides those that every service has."""
