"""A registry and a trainer as processes, with the data of two tasks."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from protos.job.v1 import job_pb2, job_pb2_grpc
from protos.registry.v1 import registry_pb2_grpc
from protos.trainer.v1 import trainer_pb2 as pb
from protos.trainer.v1 import trainer_pb2_grpc
from tests.services.processes import ServiceProcess
from tests.services.trainer.tasks import PICTURE_FIELDS, add_dataset, picture_spec, pictures


@dataclass(frozen=True)
class Mesh:
    """A registry and a trainer that share a store.

    Attributes:
        registry: The registry's process.
        trainer: The trainer's process.
        home: Their home directory.
        pictures: The data set version of the pictures.
    """

    registry: ServiceProcess
    trainer: ServiceProcess
    home: Path
    pictures: str

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

    def blobs(self) -> set[str]:
        """Digests of everything in the store."""
        return {path.name for path in (self.home / "store").glob("default/sha256/*/*")}

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


def start_mesh(home: Path, owned: ExitStack, **settings: str) -> Mesh:
    """Starts both services and adds the pictures."""
    home.mkdir(parents=True)
    registry = ServiceProcess("registry", home)
    owned.callback(registry.close)
    registry.start()
    trainer = ServiceProcess("trainer", home, settings={"registry": registry.address, **settings})
    owned.callback(trainer.close)
    trainer.start()
    store = Path(settings["store_url"].removeprefix("file://")) if "store_url" in settings else home / "store"
    version = add_dataset(registry.channel(), store, "pictures", PICTURE_FIELDS, pictures())
    return Mesh(registry, trainer, home, version)


@pytest.fixture(scope="session")
def mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mesh]:
    """A mesh for tests that leave it as healthy as they found it."""
    with ExitStack() as owned:
        yield start_mesh(tmp_path_factory.mktemp("trainer") / "home", owned)


@pytest.fixture(autouse=True)
def nothing_under_way(request: pytest.FixtureRequest) -> Iterator[None]:
    """Stops runs that a test has left on the shared mesh, which executes one at a time, so others would wait."""
    yield
    if "mesh" in request.fixturenames:
        mesh: Mesh = request.getfixturevalue("mesh")
        for run in mesh.runs.ListRuns(pb.ListRunsRequest()).runs:
            if run.job.state in (job_pb2.JOB_STATE_PENDING, job_pb2.JOB_STATE_RUNNING):
                mesh.runs.StopRun(pb.StopRunRequest(name=run.name))


@pytest.fixture
def own_mesh(tmp_path: Path) -> Iterator[Mesh]:
    """A mesh for one test, to be killed."""
    with ExitStack() as owned:
        yield start_mesh(tmp_path / "home", owned)


@pytest.fixture(scope="session")
def trained(mesh: Mesh) -> pb.Run:
    """A run of the pictures that has succeeded."""
    name = mesh.submit().name
    for _ in mesh.watch(name):
        pass
    run = mesh.run(name)
    assert run.metrics, run.job
    return run
