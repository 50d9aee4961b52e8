"""One trace from a client through two services and the processes of a run and an export."""

from contextlib import ExitStack
from pathlib import Path

import pytest

from common.telemetry.traces import Tracer, TraceTarget
from protos.job.v1 import job_pb2
from protos.trainer.v1 import trainer_pb2 as pb
from tests.common.telemetry.spans import read_spans
from tests.harness.processes import wait_until
from tests.services.trainer.conftest import start_trainer
from tests.services.trainer.tasks import picture_spec


def test_a_run_and_its_export_are_one_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "spans.jsonl"
    monkeypatch.setenv("DEEPSEEK_TRACE_FILE", str(file))
    tracer = Tracer("client", TraceTarget(file))
    with ExitStack() as owned:
        mesh = start_trainer(tmp_path / "home", owned)
        with tracer.span("root", sampled=True) as root:
            run = mesh.submit({**picture_spec(mesh.pictures), "num_workers": 2})
            for _ in mesh.watch(run.name):
                pass
            request = pb.ExportModelRequest(run=run.name, model="models/pictures")
            job = mesh.runs.ExportModel(request).job.name
            *_, last = mesh.jobs.WatchJob(job_pb2.WatchJobRequest(name=job), timeout=400)
            assert last.job.state == job_pb2.JOB_STATE_SUCCEEDED, last.job
        tracer.close()
        wait_until(lambda: "trainer.export" in [span["name"] for span in read_spans(file)], "the last span")

    spans = [span for span in read_spans(file) if span["traceId"] == root.context.trace_id]
    by_id = {span["spanId"]: span for span in spans}

    def path(span: dict[str, str]) -> list[str]:
        names = [span["name"].rpartition("/")[2]]
        while parent := span.get("parentSpanId"):
            span = by_id[parent]
            names.insert(0, span["name"].rpartition("/")[2])
        return names

    paths = sorted(" > ".join(path(span)) for span in spans)
    assert paths.count("root > SubmitRun > trainer.run > train") == 2
    assert paths.count("root > ExportModel > trainer.export > export") == 1
    assert "root > SubmitRun > GetDatasetVersion" in paths
    assert "root > ExportModel > trainer.export > CreateModelVersion" in paths
