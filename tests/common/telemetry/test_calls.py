"""What is seen of calls, over a real server: spans, metrics and audit records."""

import json
import resource
import signal
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client.parser import text_string_to_metric_families

from common.auth import Role
from common.auth.certificates import make_authority
from common.auth.tokens import issue_token
from common.channel import open_channel
from common.database import Database
from common.errors import InvalidArgument, MeshError, NotFound, PermissionDenied, ResourceExhausted, Unauthenticated
from common.files import replace_file
from common.jobs import JobStore
from common.jobs.servicer import JobServicer
from common.server import GrpcService, MeshServer, make_server
from common.server.telemetry import Telemetry
from common.telemetry.audit_records import Head
from common.telemetry.audit_verify import verify
from common.telemetry.calls import UnauthenticatedRecords
from common.telemetry.traces import Tracer, TraceTarget
from protos.audit.v1 import audit_pb2, audit_pb2_grpc
from protos.ingest.v1 import ingest_pb2, ingest_pb2_grpc
from protos.job.v1 import job_pb2, job_pb2_grpc
from tests.common.telemetry.spans import read_spans
from tests.harness.processes import wait_until
from tests.harness.settings import ExampleSettings, example_settings

JOBS = "deepseek.job.v1.JobService"


class Uploads(ingest_pb2_grpc.IngestServiceServicer):  # type: ignore[misc]
    """Makes uploads and takes two requests of samples."""

    def CreateUpload(self, request: Any, context: grpc.ServicerContext) -> ingest_pb2.CreateUploadResponse:
        if request.dataset == "wrong":
            raise InvalidArgument("BAD_NAME", "no such name", field="dataset")
        return ingest_pb2.CreateUploadResponse(upload=ingest_pb2.Upload(name="uploads/u", dataset=request.dataset))

    def UploadSamples(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Any:
        assert sum(1 for _ in requests) == 2
        return ingest_pb2.UploadSamplesResponse()


@dataclass(frozen=True)
class Place:
    """A running server and what it leaves behind."""

    server: MeshServer
    settings: ExampleSettings
    job: str

    @property
    def records(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.settings.audit_file.read_text().splitlines()]

    def metric(self, name: str, **labels: str) -> float:
        with urllib.request.urlopen(f"http://{self.server.metrics_address}/metrics", timeout=30) as response:
            text = response.read().decode()
        return sum(
            sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )


@contextmanager
def serving(home: Path, *flags: str) -> Iterator[Place]:
    settings = example_settings(home, "--metrics-port", "0", "--trace-file", str(home / "spans.jsonl"), *flags)
    with ExitStack() as owned:
        database = Database(settings.state_url)
        owned.callback(database.close)
        database.migrate()
        telemetry = Telemetry(settings, database)
        owned.callback(telemetry.close)
        jobs = JobStore(database)
        telemetry.watch_jobs(jobs)
        with database.transaction() as session:
            job = jobs.submit(session, tenant="default", kind="work", spec="{}")
        servicer = JobServicer(jobs)
        hosted = [
            GrpcService(JOBS, job_pb2_grpc.add_JobServiceServicer_to_server, servicer),
            GrpcService(
                "deepseek.ingest.v1.IngestService", ingest_pb2_grpc.add_IngestServiceServicer_to_server, Uploads()
            ),
        ]
        server = make_server(settings, hosted, ready=lambda: True, on_drain=[servicer.close], telemetry=telemetry)
        with server:
            yield Place(server, settings, job.name)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with serving(tmp_path) as place:
        yield place


def test_changes_are_audited_and_reads_are_not(place: Place) -> None:
    with open_channel(place.server.address) as channel:
        jobs, uploads = job_pb2_grpc.JobServiceStub(channel), ingest_pb2_grpc.IngestServiceStub(channel)
        jobs.GetJob(job_pb2.GetJobRequest(name=place.job))
        jobs.CancelJob(job_pb2.CancelJobRequest(name=place.job))
        with pytest.raises(NotFound):
            jobs.CancelJob(job_pb2.CancelJobRequest(name="jobs/none"))
        uploads.CreateUpload(ingest_pb2.CreateUploadRequest(dataset="datasets/d"))
        with pytest.raises(InvalidArgument):
            uploads.CreateUpload(ingest_pb2.CreateUploadRequest(dataset="wrong"))
        uploads.UploadSamples(iter([ingest_pb2.UploadSamplesRequest(upload="uploads/u")] * 2))
    seen = [
        (one["what"].rpartition("/")[2], one["object"], one["outcome"]["code"], one["outcome"]["reason"])
        for one in place.records
    ]
    assert seen == [
        ("CancelJob", place.job, "OK", ""),
        ("CancelJob", "jobs/none", "NOT_FOUND", "JOB_NOT_FOUND"),
        ("CreateUpload", "uploads/u", "OK", ""),
        ("CreateUpload", "wrong", "INVALID_ARGUMENT", "BAD_NAME"),
        ("UploadSamples", "uploads/u", "OK", ""),
    ]
    assert {(one["who"]["tenant"], one["who"]["subject"]) for one in place.records} == {("default", "local")}


def test_the_service_tells_where_its_log_ends(place: Place) -> None:
    with open_channel(place.server.address) as channel:
        job_pb2_grpc.JobServiceStub(channel).CancelJob(job_pb2.CancelJobRequest(name=place.job))
        head = audit_pb2_grpc.AuditServiceStub(channel).GetAuditHead(audit_pb2.GetAuditHeadRequest())
    (record, own) = place.records
    assert (head.sequence, head.hash) == (1, record["hash"])
    assert own["what"] == "/deepseek.audit.v1.AuditService/GetAuditHead"


def test_who_is_refused_is_on_record_and_no_token_is(tmp_path: Path) -> None:
    folder, file = tmp_path / "authority", tmp_path / "token"
    make_authority(folder, ["example"])
    token = issue_token(folder / "signing" / "key.pem", "ana", tenant="lab", role=Role.PREDICTOR, lifetime_s=60)
    forged = token[:-8] + "AAAAAAAA"
    home = tmp_path / "home"
    with serving(home, "--identity", str(folder / "example"), "--trace-sampling", "1") as place:
        for content, error in ((token, PermissionDenied), (forged, Unauthenticated)):
            replace_file(file, content.encode())
            with (
                open_channel(place.server.address, identity=folder / "cli", token_file=file) as channel,
                pytest.raises(error),
            ):
                job_pb2_grpc.JobServiceStub(channel).GetJob(job_pb2.GetJobRequest(name=place.job))
        seen = [(one["who"]["tenant"], one["who"]["subject"], one["outcome"]["code"]) for one in place.records]
        assert place.metric("grpc_server_handled_total", grpc_code="UNAUTHENTICATED") == 1
    assert seen == [("lab", "ana", "PERMISSION_DENIED"), ("", "", "UNAUTHENTICATED")]
    written = place.settings.audit_file.read_text() + (home / "spans.jsonl").read_text()
    assert not any(part in written for part in (*token.split("."), "Bearer"))


def test_a_change_that_cannot_be_recorded_is_not_acknowledged(place: Place) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with open_channel(place.server.address) as channel:
        stub = ingest_pb2_grpc.IngestServiceStub(channel)
        request = ingest_pb2.CreateUploadRequest(dataset="datasets/d")
        stub.CreateUpload(request)
        resource.setrlimit(resource.RLIMIT_FSIZE, (place.settings.audit_file.stat().st_size + 10, limits[1]))
        try:
            with pytest.raises(ResourceExhausted) as caught:
                stub.CreateUpload(request)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, before)
        assert caught.value.reason == "DISK_FULL"
        stub.CreateUpload(request)
    assert [one["seq"] for one in place.records] == [1, 2]


def test_a_call_is_a_span_of_its_callers_trace(place: Place, tmp_path: Path) -> None:
    tracer = Tracer("client", TraceTarget(tmp_path / "client.jsonl"))
    with (
        open_channel(place.server.address) as channel,
        pytest.raises(NotFound),
        tracer.span("root", sampled=True) as root,
    ):
        job_pb2_grpc.JobServiceStub(channel).CancelJob(job_pb2.CancelJobRequest(name="jobs/none"))
    assert place.records[0]["trace_id"] == root.context.trace_id
    wait_until((tmp_path / "spans.jsonl").exists, "the span", timeout_s=30)
    (span,) = read_spans(tmp_path / "spans.jsonl")
    assert (span["name"], span["traceId"]) == (f"{JOBS}/CancelJob", root.context.trace_id)
    assert (span["parentSpanId"], span["kind"]) == (root.context.span_id, 2)
    assert span["status"] == {"code": 2, "message": "JOB_NOT_FOUND"}
    tracer.close()


def test_calls_are_counted_by_method_and_code(place: Place) -> None:
    with open_channel(place.server.address) as channel:
        stub = job_pb2_grpc.JobServiceStub(channel)
        stub.GetJob(job_pb2.GetJobRequest(name=place.job))
        for _ in range(2):
            with pytest.raises(NotFound):
                stub.GetJob(job_pb2.GetJobRequest(name="jobs/none"))
        with pytest.raises(MeshError):
            channel.unary_unary(f"/{JOBS}/Nothing")(b"")
        watch = stub.WatchJob(job_pb2.WatchJobRequest(name=place.job))
        next(watch)
        assert place.metric("grpc_server_in_flight", grpc_method="WatchJob") == 1
        watch.cancel()
        wait_until(
            lambda: place.metric("grpc_server_handled_total", grpc_code="CANCELLED") == 1,
            "the watch to count as cancelled",
            timeout_s=30,
        )
    assert place.metric("grpc_server_handled_total", grpc_method="GetJob", grpc_code="OK") == 1
    assert place.metric("grpc_server_handled_total", grpc_method="GetJob", grpc_code="NOT_FOUND") == 2
    assert place.metric("grpc_server_handling_seconds_count", grpc_method="GetJob", grpc_service=JOBS) == 3
    assert place.metric("grpc_server_handling_seconds_bucket", grpc_method="GetJob", le="+Inf") == 3
    assert place.metric("grpc_server_in_flight") == 0
    assert place.metric("grpc_server_handled_total", grpc_method="Nothing") == 0
    assert place.metric("deepseek_jobs", kind="work", state="PENDING") == 1
    assert place.metric("process_resident_memory_bytes") > 0


def test_a_taken_metrics_port_is_named(place: Place, tmp_path: Path) -> None:
    taken = place.server.metrics_address.rpartition(":")[2]
    with pytest.raises(MeshError) as caught, serving(tmp_path / "other", "--metrics-port", taken):
        pass
    assert (caught.value.reason, caught.value.field) == ("METRICS_PORT_TAKEN", "metrics_port")


def test_the_log_is_whole_after_a_stop(tmp_path: Path) -> None:
    with serving(tmp_path) as place, open_channel(place.server.address) as channel:
        job_pb2_grpc.JobServiceStub(channel).CancelJob(job_pb2.CancelJobRequest(name=place.job))
    with serving(tmp_path) as again, open_channel(again.server.address) as channel:
        head = audit_pb2_grpc.AuditServiceStub(channel).GetAuditHead(audit_pb2.GetAuditHeadRequest())
    assert head.sequence == 1
    assert verify(again.settings.audit_file, Head(head.sequence, head.hash, head.size_bytes)).findings == ()


def test_strangers_are_recorded_at_first_and_then_one_a_second_with_how_many_were_not() -> None:
    now = [0.0]
    unauthenticated_records = UnauthenticatedRecords(lambda: now[0])
    assert [unauthenticated_records.count("ipv4:10.0.0.1") for _ in range(103)] == [0] * 100 + [None] * 3
    assert unauthenticated_records.count("ipv4:10.0.0.2") == 0
    now[0] = 1.0
    assert [unauthenticated_records.count("ipv4:10.0.0.1") for _ in range(2)] == [3, None]
