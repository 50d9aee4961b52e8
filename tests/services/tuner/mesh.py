"""A mesh that runs studies on a real trainer: every service is a process."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common.errors import Unavailable
from deepseek.client import connect
from deepseek.client.mesh import Mesh
from protos.tuner.v1 import tuner_pb2 as pb
from tests.harness.processes import wait_until
from tests.services.trainer.conftest import TrainerMesh, start_trainer
from tests.services.trainer.tasks import picture_spec


class TunerMesh:
    """A registry, a trainer that executes two runs at a time, and a tuner.

    Attributes:
        processes: The services.
        client: A client of all of them.
    """

    def __init__(self, home: Path, owned: ExitStack) -> None:
        self.processes: TrainerMesh = start_trainer(home, owned, max_runs="2")
        self.tuner = self.processes.start("tuner", lease_s="2")
        self.processes.file.write(home / "mesh.json")
        self.client: Mesh = owned.enter_context(connect(home / "mesh.json"))

    def spec(self, **changes: Any) -> dict[str, Any]:
        """A run of three epochs."""
        small = {"epochs": 3, "num_workers": 1, "precision": "PRECISION_FP32", "schedule": {"name": "constant"}}
        return picture_spec(self.processes.pictures, **{**small, **changes})

    def trials(self, study: str) -> list[pb.Trial]:
        return list(self.client.studies.trials(study))

    def ended(self, study: str) -> pb.Study:
        """Waits until RunStudy has ended."""

        def is_final() -> bool:
            try:
                return self.client.studies.get(study).run.state != pb.STUDY_RUN_STATE_RUNNING
            except Unavailable:
                return False

        wait_until(is_final, f"the end of {study}", timeout_s=240)
        return self.client.studies.get(study)
