"""The framework of the workload: clients that write while something breaks, and then check what was acknowledged.

Each service's part is in `tests/services/<name>/workload.py`. The clients are written as a careful team writes them:
a creating call has a request id and is repeated until it is answered, an upload resumes from what is durable, and a job
that failed because something was away or full is started again.
"""

import hashlib
import threading
import time
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, ClassVar, TypeVar

from google.protobuf.message import Message

from common.errors import (
    Cancelled,
    DataLoss,
    DeadlineExceeded,
    FailedPrecondition,
    MeshError,
    NotFound,
    ResourceExhausted,
    Unavailable,
)
from deepseek.client import jobs
from deepseek.client.mesh import Mesh
from deepseek.services import SERVICES
from protos.job.v1 import job_pb2, job_pb2_grpc
from tests.faults.findings import Findings
from tests.harness.examples import part_of
from tests.harness.mesh import MeshProcesses

T = TypeVar("T")

CALL_S = 8.0
PATIENCE_S = 120.0
PAUSE_S = 1.0
BASE = "base"
"""Name of the data set and of the model that are there before the first trial."""

_DISK = ("STORE_FULL", "DATABASE_FULL", "DISK_FULL")
_PASSING = (*_DISK, "STORE_UNREACHABLE", "DATABASE_UNREACHABLE", "DATABASE_BUSY", "DISK_UNAVAILABLE")
"""Reasons of a job's failure after which it may be started again."""

FINAL = (job_pb2.JOB_STATE_SUCCEEDED, job_pb2.JOB_STATE_FAILED, job_pb2.JOB_STATE_CANCELLED)


class WritingClient(ABC):
    """A client with its own connections; `work` runs in a thread, and `check` is called afterwards.

    Args:
        mesh: The mesh under trial.
        trial: Id of the trial, a part of all names that it makes.
        enough: Set when it may stop.
    """

    def __init__(self, mesh: MeshProcesses, trial: str, enough: threading.Event) -> None:
        self.mesh = Mesh(mesh.file)
        self.trial = trial
        self.findings = Findings()
        self._enough = enough

    @abstractmethod
    def work(self) -> None:
        """Writes until `enough` is set.

        Raises:
            MeshError: A call failed for good.
        """

    @abstractmethod
    def check(self) -> None:
        """Checks everything that was acknowledged."""

    def rounds(self) -> "Rounds":
        """Yields 0, 1, 2, ... until `enough` is set; at least one number."""
        return Rounds(self._enough)

    def acknowledged(self) -> None:
        """Counts an acknowledged write."""
        self.findings.num_acknowledged += 1

    def close(self) -> None:
        """Closes its connections."""
        self.mesh.close()


class Rounds:
    """See `WritingClient.rounds`."""

    def __init__(self, enough: threading.Event) -> None:
        self._enough = enough
        self._next = 0

    def __iter__(self) -> "Rounds":
        return self

    def __next__(self) -> int:
        if self._next and self._enough.wait(PAUSE_S):
            raise StopIteration
        self._next += 1
        return self._next - 1


class Workload(ABC):
    """A service's part of the workload: `WORKLOAD` in `tests/services/<name>/workload.py` is its class.

    It is made while the mesh is healthy. It does everything once, so that its clients know the undisturbed results.

    Args:
        mesh: The mesh under trial.

    Attributes:
        settings: Settings of the service that keep trials short.
    """

    settings: ClassVar[Mapping[str, str]] = MappingProxyType({})

    @abstractmethod
    def __init__(self, mesh: MeshProcesses) -> None: ...

    @abstractmethod
    def clients(self, mesh: MeshProcesses, trial: str, enough: threading.Event) -> list[WritingClient]:
        """Returns the clients that work during every trial; Args as for `WritingClient`."""

    def reads(self) -> Sequence[Callable[[WritingClient], None]]:
        """Returns functions that each read, with a client, something that was there before the trial."""
        return ()

    def job_client(self, job: str, mesh: MeshProcesses, trial: str, enough: threading.Event) -> WritingClient | None:
        """Returns the client that has a job done once, or None if it is another service's job.

        Args:
            job: As `Trial.job`.
            mesh: As for `WritingClient`, like the others.
        """
        return None


def workload_settings(name: str) -> Mapping[str, str]:
    """Settings of a service that keep trials short."""
    settings: Mapping[str, str] = part_of(name, "workload").WORKLOAD.settings
    return settings


def workloads_on(mesh: MeshProcesses) -> list[Workload]:
    """The workloads of all services; does everything once."""
    return [part_of(name, "workload").WORKLOAD(mesh) for name in SERVICES]


class Reader(WritingClient):
    """Reads what was there before the trial."""

    def __init__(
        self,
        mesh: MeshProcesses,
        trial: str,
        enough: threading.Event,
        reads: Sequence[Callable[[WritingClient], None]],
    ) -> None:
        super().__init__(mesh, trial, enough)
        self._reads = reads

    def work(self) -> None:
        for _ in self.rounds():
            for read in self._reads:
                insist(read, self)

    def check(self) -> None:
        for read in self._reads:
            read(self)


def insist(call: Callable[..., T], *args: object, **options: float) -> T:
    """Repeats an idempotent call until it is answered.

    Raises:
        MeshError: The last failure, if it is permanent or two minutes have passed.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            return call(*args, **options)
        except (Unavailable, DeadlineExceeded, Cancelled) as error:
            last: MeshError = error
        except (ResourceExhausted, FailedPrecondition) as error:
            if error.reason not in _DISK:
                raise
            last = error
        if time.monotonic() > deadline:
            raise last
        time.sleep(0.1)


def answer(method: Callable[..., Any], request: Message) -> Any:
    """Returns the response to a request, which is sent until it is answered."""
    return insist(method, request, timeout=CALL_S)


def succeeds(client: WritingClient, service: str, job: job_pb2.Job) -> bool:
    """Waits for the end of a job; returns False if it has to be started again.

    Raises:
        MeshError: The job failed for good.
    """
    channel = client.mesh.channel(service)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            jobs.wait(channel, job)
            return True
        except MeshError as error:
            # Either the job has failed, or its state could not be read.
            request = job_pb2.GetJobRequest(name=job.name)
            state = answer(job_pb2_grpc.JobServiceStub(channel).GetJob, request).job
            if state.state == job_pb2.JOB_STATE_FAILED and state.error.reason in _PASSING:
                return False
            if state.state in FINAL or time.monotonic() > deadline:
                raise error
            time.sleep(0.1)


def request_id() -> str:
    """A new request id."""
    return uuid.uuid4().hex


def read_blob(client: WritingClient, sha256: str) -> None:
    """Reads an artifact from the store."""
    try:
        data = client.mesh.store.read(client.mesh.tenant, sha256)
    except NotFound:
        client.findings.lost_writes.append(f"the store has no {sha256}")
    except DataLoss as error:
        client.findings.torn_reads.append(error.message)
    else:
        client.findings.num_reads += 1
        if hashlib.sha256(data).hexdigest() != sha256:
            client.findings.torn_reads.append(f"the store gave other bytes for {sha256}")
