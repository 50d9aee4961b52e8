"""A registry and a trainer as processes, with the data of two tasks."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from protos.job.v1 import job_pb2, job_pb2_grpc
from protos.registry.v1 import registry_pb2_grpc
from protos.trainer.v1 import trainer_pb2 as pb
from protos.trainer.v1 import trainer_pb2_grpc
from tests.harness.mesh import MeshProcesses
from tests.harness.subprocesses import ServiceSubprocess
from tests.services.trainer.tasks import PICTURE_FIELDS, add_dataset, picture_spec, pictures


class TrainerMesh(MeshProcesses):
    """A registry and a trainer that share a store.

    Attributes:
        pictures: The data set version of the pictures.
    """

    pictures: str

    @property
    def trainer(self) -> ServiceSubprocess:
        """The trainer's process."""
        return self.services["trainer"]

    @cached_property
    def runs(self) -> trainer_pb2_grpc.TrainerServiceStub:
        """TrainerService."""
        return trainer_pb2_grpc.TrainerServiceStub(self.trainer.channel())

    @cached_property
    def jobs(self) -> job_pb2_grpc.JobServiceStub:
        """The trainer's JobService."""
        return job_pb2_grpc.JobServiceStub(self.trainer.channel())

    @cached_property
    def models(self) -> registry_pb2_grpc.RegistryServiceStub:
        """RegistryService."""
        return registry_pb2_grpc.RegistryServiceStub(self.registry.channel())

    def reconnect(self) -> None:
        """Makes new clients of a trainer whose channels were closed."""
        for name in ("runs", "jobs"):
            vars(self).pop(name, None)

    def submit(self, spec: Mapping[str, Any] | None = None, *, reuse: bool = False, request_id: str = "") -> pb.Run:
        """Submits a run of pictures, or of a spec."""
        message = self.spec(spec or picture_spec(self.pictures))
        answer = self.runs.SubmitRun(pb.SubmitRunRequest(spec=message, reuse=reuse, request_id=request_id))
        run: pb.Run = answer.run
        return run

    def spec(self, spec: Mapping[str, Any]) -> pb.RunSpec:
        """The message of a spec."""
        return json_format.ParseDict(dict(spec), pb.RunSpec())

    def run(self, name: str) -> pb.Run:
        """A run as it stands."""
        run: pb.Run = self.runs.GetRun(pb.GetRunRequest(name=name)).run
        return run

    def watch(self, name: str, after: int = 0) -> Iterator[pb.RunEvent]:
        """A run's events until it has ended."""
        request = pb.WatchRunRequest(name=name, after_sequence=after)
        return (answer.event for answer in self.runs.WatchRun(request, timeout=400))


def start_trainer(home: Path, owned: ExitStack, **settings: str) -> TrainerMesh:
    """Starts both services and adds the pictures."""
    mesh = TrainerMesh(home, owned)
    mesh.start("trainer", **settings)
    store = Path(settings["store_url"].removeprefix("file://")) if "store_url" in settings else home / "store"
    mesh.pictures = add_dataset(mesh.registry.channel(), store, "pictures", PICTURE_FIELDS, pictures())
    return mesh


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainerMesh]:
    """A mesh for tests that leave it as healthy as they found it."""
    with ExitStack() as owned:
        yield start_trainer(tmp_path_factory.mktemp("trainer") / "home", owned)


@pytest.fixture(autouse=True)
def nothing_under_way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Stops runs that a test has left on the shared mesh, which executes one at a time, so others would wait."""
    yield
    if "mesh" in request.fixturenames:
        mesh: TrainerMesh = request.getfixturevalue("mesh")
        for run in mesh.runs.ListRuns(pb.ListRunsRequest()).runs:
            if run.job.state in (job_pb2.JOB_STATE_PENDING, job_pb2.JOB_STATE_RUNNING):
                mesh.runs.StopRun(pb.StopRunRequest(name=run.name))


@pytest.fixture
def own_mesh(tmp_path: Path) -> Iterator[TrainerMesh]:
    """A mesh for one test, to be killed."""
    with ExitStack() as owned:
        yield start_trainer(tmp_path / "home", owned)


@pytest.fixture(scope="session")
def trained(mesh: TrainerMesh) -> pb.Run:
    """A run of the pictures that has succeeded."""
    name = mesh.submit().name
    for _ in mesh.watch(name):
        pass
    run = mesh.run(name)
    assert run.metrics, run.job
    return run
