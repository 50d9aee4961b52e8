"""Settings of the coordinator beyond those implied by the service's declaration in `deepseek/services.py`."""

from pathlib import Path

from pydantic import Field

from common.config import ServiceSettings, settings_for
from deepseek.services import SERVICES

_ADDRESS = r"^([^:/\s]+:\d{1,5}|\[.+\]:\d{1,5})?$"


@settings_for(SERVICES, "federated")
class FederatedSettings(ServiceSettings):
    """Coordinates federated runs. The options of a single run are in its spec, not here."""

    max_runs: int = Field(2, description="Number of runs that are executed at once; others wait", ge=1)
    lease_s: float = Field(
        4.0,
        description="Seconds after which another coordinator resumes the runs of one that stopped responding",
        gt=0,
    )
    stop_grace_s: float = Field(
        8.0, description="Seconds that runs have to store their state when the coordinator stops", gt=0
    )
    max_restarts: int = Field(
        3,
        description="Number of times that the process which prepares a run is restarted before the run fails, and the "
        "one which evaluates a model before its round is released without a model version",
        ge=0,
    )
    evaluation_s: float = Field(
        3600.0, description="Seconds after which a process that evaluates or exports a model is restarted", gt=0
    )
    max_round_bytes: int = Field(
        8 << 30,
        description="Size that the updates of a round may have together, in bytes. They are in memory until the round "
        "closes, and a run that would need more fails before its first round",
        gt=0,
    )
    superlink: str = Field(
        "",
        description="host:port of an external SuperLink; by default, the coordinator starts its own",
        pattern=_ADDRESS,
    )
    superlink_root_certificates: Path | None = Field(
        None, description="File with the certificates of the authorities that an external SuperLink's certificate needs"
    )
    node_listen: str = Field(
        "",
        description="host:port on which nodes of other machines connect, with TLS and their keys; by default, only "
        "nodes on this machine can connect",
        pattern=_ADDRESS,
    )
    node_address: str = Field(
        "",
        description="host:port at which nodes reach node_listen, for their instructions and the certificate; by "
        "default node_listen itself",
        pattern=_ADDRESS,
    )
