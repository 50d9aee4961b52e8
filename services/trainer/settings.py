"""Settings of the trainer service (`DEEPSEEK_TRAINER_<FIELD>`, table `[trainer]`, or flags)."""

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from common.config import Address, Port, StoreSettings
from common.jobs.store import MAX_JOBS_PER_TENANT


class TrainerSettings(StoreSettings):
    """What an operator decides about the trainer; what a run needs stands in its spec."""

    service: ClassVar[str] = "trainer"

    port: Port = 7003
    registry: Address = Field("127.0.0.1:7001", description="Address of the registry.")
    max_runs: int = Field(
        1, ge=1, description="Runs at the same time, each with an equal share of the cores; others wait."
    )
    max_exports: int = Field(1, ge=1, description="Exports at the same time; they do not wait for runs.")
    max_jobs_per_tenant: int = Field(
        MAX_JOBS_PER_TENANT, gt=0, description="Runs and exports of one tenant that wait or are carried out."
    )
    lease_s: float = Field(4.0, gt=0, description="Seconds after which a job whose trainer is gone is taken up again.")
    max_restarts: int = Field(3, ge=0, description="How often a crashed run or export is started anew before it fails.")
    stop_grace_s: float = Field(8.0, gt=0, description="Seconds that workers get for their last checkpoint.")

    @property
    def for_children(self) -> Mapping[str, Any]:
        """How a child process opens the store and where its spans go, as members of its job file."""
        access_key, secret_key = self.store_access_key_file, self.store_secret_key_file
        return {
            **self.trace_target.to_json(),
            "store_url": self.store_url,
            "store_access_key_file": str(access_key) if access_key else None,
            "store_secret_key_file": str(secret_key) if secret_key else None,
        }
