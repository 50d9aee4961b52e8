"""External runs: how many there may be, what they may log, and how they end."""

from collections.abc import Iterator
from pathlib import Path

import pytest

import services.trainer
from common.channel import open_channel
from common.database import Database
from common.errors import InvalidArgument, NotFound, ResourceExhausted
from common.jobs import JobState, JobStore
from protos.job.v1 import job_pb2
from protos.trainer.v1 import trainer_pb2 as pb
from protos.trainer.v1 import trainer_pb2_grpc
from services.trainer import external_runs, servicer
from services.trainer.external_runs import End, ExternalRuns, LoggedStep
from services.trainer.labels import Labels
from services.trainer.runs import RunStore
from tests.harness.in_process import service_in_process

TENANT = "default"


class Stores:
    """The stores of a trainer without the trainer."""

    def __init__(self, folder: Path) -> None:
        self.database = Database(f"sqlite:///{folder / 'trainer.db'}")
        self.database.migrate(Path(services.trainer.__path__[0]) / "migrations")
        self.jobs = JobStore(self.database, max_per_tenant=1)
        self.runs = RunStore(self.database, self.jobs)
        self.external = ExternalRuns(self.database, self.jobs, self.runs)

    def create(self) -> str:
        """Creates an external run; returns its name."""
        with self.database.transaction() as session:
            return self.external.create(session, TENANT, Labels("outside", ""), {})


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Stores]:
    stores = Stores(tmp_path)
    yield stores
    stores.database.close()


def test_programs_that_were_killed_keep_no_job_from_starting(here: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(external_runs, "MAX_UNFINISHED", 3)
    names = [here.create() for _ in range(3)]
    with pytest.raises(ResourceExhausted, match=r"3 unfinished external runs.*`deepseek run stop RUN`") as caught:
        here.create()
    assert caught.value.reason == "QUOTA_EXCEEDED"
    with here.database.transaction() as session:
        here.jobs.submit(session, tenant=TENANT, kind="trainer.run", spec="")
    here.jobs.cancel(TENANT, here.runs.get(TENANT, names[0]).job.name)
    assert here.runs.close_history(TENANT, names[0]).job.state is JobState.CANCELLED
    here.create()


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([LoggedStep(1, {"loss": 0.5, "n" * 201: 0.5})], "has 201 characters; at most 200"),
        (
            [LoggedStep(n, {f"m{n}-{i}": 0.5 for i in range(501)}) for n in (1, 2)],
            "would have 1002 metrics",
        ),
    ],
)
def test_a_run_has_no_more_metrics_than_it_may(here: Stores, steps: list[LoggedStep], message: str) -> None:
    name = here.create()
    with pytest.raises(InvalidArgument, match=message) as caught:
        here.external.log(TENANT, name, steps)
    assert caught.value.reason == "BAD_VALUE"
    assert here.external.log(TENANT, name, [LoggedStep(1, {"loss": 0.5})]).metrics == {"loss": 0.5}


def test_the_reason_of_a_failure_is_cut_to_what_can_be_stored(here: Stores) -> None:
    run = here.external.log(TENANT, here.create(), [], End(JobState.FAILED, "a\0b" + 20_000 * "c"))
    assert run.job.error is not None
    assert run.job.error.message == "a\ufffdb" + 9_997 * "c"


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[trainer_pb2_grpc.TrainerServiceStub]:
    """A trainer over gRPC, in this process."""
    with (
        service_in_process("trainer", tmp_path / "home", registry="127.0.0.1:1") as server,
        open_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield trainer_pb2_grpc.TrainerServiceStub(channel)


def test_a_page_of_large_runs_ends_early(
    stub: trainer_pb2_grpc.TrainerServiceStub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servicer, "_MAX_PAGE_BYTES", 8_000)
    request = pb.CreateExternalRunRequest(display_name="outside", note=3_000 * "n")
    names = [stub.CreateExternalRun(request).run.name for _ in range(5)]
    pages, token = [], "first"
    while token:
        answer = stub.ListRuns(pb.ListRunsRequest(page_size=4, page_token="" if token == "first" else token))
        pages.append([run.name for run in answer.runs])
        token = answer.next_page_token
    assert [name for page in pages for name in page] == names[::-1]
    assert [len(page) for page in pages] == [2, 2, 1]


def test_stopping_a_run_that_has_ended_changes_nothing(stub: trainer_pb2_grpc.TrainerServiceStub) -> None:
    create = pb.CreateExternalRunRequest(display_name="outside")
    name = stub.CreateExternalRun(create).run.name
    stopped = stub.StopRun(pb.StopRunRequest(name=name))
    assert stopped.run.job.state == job_pb2.JOB_STATE_CANCELLED
    assert stub.StopRun(pb.StopRunRequest(name=name)) == stopped
    done = stub.CreateExternalRun(create).run.name
    stub.LogRun(pb.LogRunRequest(name=done, end=job_pb2.JOB_STATE_SUCCEEDED))
    assert stub.StopRun(pb.StopRunRequest(name=done)).run.job.state == job_pb2.JOB_STATE_SUCCEEDED


@pytest.mark.parametrize("end", [-1, 99, job_pb2.JOB_STATE_RUNNING])
def test_a_run_ends_only_in_a_final_state(stub: trainer_pb2_grpc.TrainerServiceStub, end: job_pb2.JobState) -> None:
    name = stub.CreateExternalRun(pb.CreateExternalRunRequest(display_name="outside")).run.name
    with pytest.raises(InvalidArgument) as caught:
        stub.LogRun(pb.LogRunRequest(name=name, end=end))
    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", "end")


def test_a_run_that_was_stopped_meanwhile_may_be_ended_the_same_way(here: Stores) -> None:
    name = here.create()
    here.jobs.cancel(TENANT, here.runs.get(TENANT, name).job.name)
    assert here.external.log(TENANT, name, [], End(JobState.CANCELLED)).job.state is JobState.CANCELLED


def test_figures_of_a_run_that_is_deleted_meanwhile_are_refused(here: Stores, monkeypatch: pytest.MonkeyPatch) -> None:
    run = here.runs.get(TENANT, here.create())
    here.runs.delete(run)
    monkeypatch.setattr(here.runs, "get", lambda *_: run)
    with pytest.raises(NotFound) as caught:
        here.external.log(TENANT, run.name, [LoggedStep(1, {"loss": 0.5})])
    assert caught.value.reason == "RUN_NOT_FOUND"
