"""JobService over gRPC, in a real server."""

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import grpc
import pytest

from common.channel import open_channel
from common.config import ServiceSettings
from common.database import Database
from common.errors import InvalidArgument, MeshError, NotFound, Unavailable
from common.jobs import Job, JobStore
from common.jobs.servicer import JobServicer
from common.server import GrpcService, make_server
from common.service import JOB_CONTRACT, Service
from protos.job.v1 import job_pb2, job_pb2_grpc
from tests.harness.processes import wait_until


class Settings(ServiceSettings):
    """Settings of a service that only has jobs."""

    service: ClassVar[Service] = Service("jobs", JOB_CONTRACT, 0, 0)


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/jobs.db")
    database.migrate()
    yield database
    database.close()


@pytest.fixture
def store(database: Database) -> JobStore:
    return JobStore(database)


@pytest.fixture
def servicer(store: JobStore) -> JobServicer:
    return JobServicer(store)


@pytest.fixture
def channel(servicer: JobServicer, tmp_path: Path) -> Iterator[grpc.Channel]:
    hosted = GrpcService(JOB_CONTRACT, job_pb2_grpc.add_JobServiceServicer_to_server, servicer)
    with (
        make_server(Settings(port=0, home=tmp_path), [hosted], ready=lambda: True) as server,
        open_channel(server.address, retry=False) as channel,
    ):
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> job_pb2_grpc.JobServiceStub:
    return job_pb2_grpc.JobServiceStub(channel)


def _submit(database: Database, kind: str = "work") -> Job:
    with database.transaction() as session:
        return JobStore(database).submit(session, tenant="default", kind=kind, spec="{}")


def test_jobs_are_read_listed_and_cancelled(database: Database, stub: job_pb2_grpc.JobServiceStub) -> None:
    names = [_submit(database).name for _ in range(3)]
    _submit(database, kind="other")

    assert stub.GetJob(job_pb2.GetJobRequest(name=names[0])).job.state == job_pb2.JOB_STATE_PENDING
    first = stub.ListJobs(job_pb2.ListJobsRequest(page_size=2, kind="work"))
    rest = stub.ListJobs(job_pb2.ListJobsRequest(page_size=2, kind="work", page_token=first.next_page_token))
    assert [job.name for job in (*first.jobs, *rest.jobs)] == names[::-1]
    assert rest.next_page_token == ""
    assert stub.CancelJob(job_pb2.CancelJobRequest(name=names[0])).job.state == job_pb2.JOB_STATE_CANCELLED
    cancelled = stub.ListJobs(job_pb2.ListJobsRequest(state=job_pb2.JOB_STATE_CANCELLED))
    assert [job.name for job in cancelled.jobs] == names[:1]


def test_a_watch_ends_with_the_job(database: Database, store: JobStore, stub: job_pb2_grpc.JobServiceStub) -> None:
    job = _submit(database)
    watch = stub.WatchJob(job_pb2.WatchJobRequest(name=job.name))
    assert next(watch).job.state == job_pb2.JOB_STATE_PENDING
    lease = store.claim("me", ["work"], 60)
    assert lease is not None
    lease.complete(lambda session: "results/1")

    *_, last = watch

    assert (last.job.state, last.job.result) == (job_pb2.JOB_STATE_SUCCEEDED, "results/1")


def test_a_watch_whose_client_went_away_ends(
    database: Database, servicer: JobServicer, stub: job_pb2_grpc.JobServiceStub
) -> None:
    watch = stub.WatchJob(job_pb2.WatchJobRequest(name=_submit(database).name))
    next(watch)
    assert servicer.num_watches == 1

    watch.cancel()

    wait_until(lambda: servicer.num_watches == 0, "the end of the watch")


def test_a_server_that_stops_tells_watchers_to_watch_again(
    database: Database, servicer: JobServicer, stub: job_pb2_grpc.JobServiceStub
) -> None:
    name = _submit(database).name
    watch = stub.WatchJob(job_pb2.WatchJobRequest(name=name))
    next(watch)
    threading.Timer(0.1, servicer.close).start()

    with pytest.raises(Unavailable) as caught:
        next(watch)

    assert caught.value.reason == "SERVER_STOPPING"
    with pytest.raises(Unavailable):
        list(stub.WatchJob(job_pb2.WatchJobRequest(name=name)))


@pytest.mark.parametrize(("name", "error"), [("jobs/unknown", NotFound), ("nonsense", InvalidArgument)])
def test_what_is_no_job_is_a_clear_error(stub: job_pb2_grpc.JobServiceStub, name: str, error: type[MeshError]) -> None:
    for call in (
        lambda: stub.GetJob(job_pb2.GetJobRequest(name=name)),
        lambda: stub.CancelJob(job_pb2.CancelJobRequest(name=name)),
        lambda: list(stub.WatchJob(job_pb2.WatchJobRequest(name=name))),
    ):
        with pytest.raises(error) as caught:
            call()
        assert caught.value.field == "name"


@pytest.mark.parametrize(
    ("request_", "field"),
    [
        (job_pb2.ListJobsRequest(page_size=-1), "page_size"),
        (job_pb2.ListJobsRequest(page_token="nonsense"), "page_token"),
        (job_pb2.ListJobsRequest(state=99), "state"),  # type: ignore[arg-type]
    ],
)
def test_hostile_listings_are_refused(
    stub: job_pb2_grpc.JobServiceStub, request_: job_pb2.ListJobsRequest, field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        stub.ListJobs(request_)
    assert caught.value.field == field
