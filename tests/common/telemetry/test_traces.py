"""Trace context, sampling, and spans in a file."""

import base64
import json
import subprocess
import sys
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

from common.errors import NotFound
from common.telemetry.traces import SpanContext, Tracer, TraceTarget, current, traceparent
from tests.common.telemetry.spans import read_spans
from tests.harness.command_line import COMMAND_LINE

HEADER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


def test_a_header_is_read_and_written_as_the_standard_has_it() -> None:
    span = SpanContext.parse(HEADER)
    assert span == SpanContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331", True)
    assert span.traceparent == HEADER
    later = SpanContext.parse("cc" + HEADER[2:-2] + "02-what-comes-then")
    assert later is not None
    assert not later.sampled


@pytest.mark.parametrize(
    "header",
    [
        "",
        "00-abc",
        HEADER + "-more",
        HEADER.upper(),
        "ff" + HEADER[2:],
        HEADER.replace("0af7651916cd43dd8448eb211c80319c", "0" * 32),
        HEADER.replace("b7ad6b7169203331", "0" * 16),
    ],
)
def test_what_is_no_header_begins_a_trace(header: str) -> None:
    assert SpanContext.parse(header) is None


def test_the_caller_decides_whether_its_trace_is_recorded(tmp_path: Path) -> None:
    tracer = Tracer("example", TraceTarget(tmp_path / "spans"), sampling=1)
    with tracer.span("no", SpanContext("a" * 32, "b" * 16, False)) as span:
        assert span.context == SpanContext("a" * 32, "b" * 16, False)
    with Tracer("example", TraceTarget(tmp_path / "spans"), sampling=0).span("chance") as span:
        assert not span.context.sampled
    tracer.close()
    assert not (tmp_path / "spans").exists()


def test_spans_in_the_file_are_otlp_json_and_hang_together(tmp_path: Path) -> None:
    file = tmp_path / "new" / "spans.jsonl"
    tracer = Tracer("example", TraceTarget(file), sampling=1)
    with tracer.span("outer", attributes={"n": 1, "x": 0.5, "yes": True, "s": "t"}) as outer:
        assert traceparent() == outer.context.traceparent
        with pytest.raises(NotFound), tracer.span("inner"):
            raise NotFound("GONE", "gone")
        assert current() == outer.context
    assert current() is None
    tracer.close()

    inner, root = read_spans(file)
    assert (inner["name"], root["name"]) == ("inner", "outer")
    assert inner["traceId"] == root["traceId"] == outer.context.trace_id
    assert inner["parentSpanId"] == root["spanId"]
    assert "parentSpanId" not in root
    assert inner["status"] == {"code": 2, "message": "GONE"}
    (line,) = file.read_text().splitlines()
    message = json_format.ParseDict(with_base64_ids(json.loads(line)), trace_service_pb2.ExportTraceServiceRequest())
    (resource,) = message.resource_spans
    assert resource.resource.attributes[0].value.string_value == "deepseek-example"
    values = {each.key: each.value for each in resource.scope_spans[0].spans[1].attributes}
    assert (values["n"].int_value, values["x"].double_value, values["yes"].bool_value) == (1, 0.5, True)


def with_base64_ids(document: Any) -> Any:
    """OTLP's JSON has ids in hexadecimal, protobuf's own in base64."""
    if isinstance(document, list):
        return [with_base64_ids(each) for each in document]
    if isinstance(document, dict):
        return {
            name: base64.b64encode(bytes.fromhex(value)).decode()
            if name in ("traceId", "spanId", "parentSpanId")
            else with_base64_ids(value)
            for name, value in document.items()
        }
    return document


def test_a_full_file_is_moved_away_and_nothing_is_lost(tmp_path: Path) -> None:
    from common.telemetry.span_file import SpanFile

    spans: list[Any] = []

    class Keep:
        def on_end(self, span: Any) -> None:
            spans.append(span)

    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

    class Processor(Keep, SpanProcessor):
        pass

    provider = TracerProvider()
    provider.add_span_processor(Processor())
    for number in range(5):
        provider.get_tracer("t").start_span(str(number)).end()
    file = SpanFile(tmp_path / "spans", max_bytes=100, num_kept=2)
    for span in spans:
        file.export([span])
    assert [read_spans(tmp_path / f"spans.{number}")[0]["name"] for number in (1, 2)] == ["4", "3"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["spans.1", "spans.2"]


def test_processes_share_a_file(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom pathlib import Path\nfrom common.telemetry.traces import Tracer, TraceTarget\n"
        "for number in range(20):\n"
        "    tracer = Tracer('x', TraceTarget(Path(sys.argv[1])), sampling=1)\n"
        "    with tracer.span(f'{sys.argv[2]}-{number}'): pass\n"
        "    tracer.close()"
    )
    file = tmp_path / "spans"
    processes = [subprocess.Popen([sys.executable, "-c", program, file, name]) for name in ("a", "b")]
    assert [process.wait(120) for process in processes] == [0, 0]
    names = {span["name"] for span in read_spans(file)}
    assert names == {f"{name}-{number}" for name in ("a", "b") for number in range(20)}


def test_a_collector_gets_spans_over_grpc() -> None:
    received = []

    class Collector(trace_service_pb2_grpc.TraceServiceServicer):  # type: ignore[misc]
        def Export(self, request: Any, context: grpc.ServicerContext) -> Any:
            received.append(request)
            return trace_service_pb2.ExportTraceServiceResponse()

    server = grpc.server(futures.ThreadPoolExecutor(1))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Collector(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    tracer = Tracer("example", TraceTarget(endpoint=f"http://127.0.0.1:{port}"), sampling=1)
    with tracer.span("work") as span:
        pass
    tracer.close()
    server.stop(None).wait()
    (request,) = received
    (sent,) = request.resource_spans[0].scope_spans[0].spans
    assert (sent.name, sent.trace_id.hex()) == ("work", span.context.trace_id)


@pytest.mark.parametrize("module", ["deepseek.client", COMMAND_LINE, "services.registry.service"])
def test_nothing_is_imported_that_nobody_asked_for(module: str) -> None:
    program = f"import sys, {module}; from common.telemetry.traces import Tracer; Tracer('x').start('y', None).end()\n"
    program += "print([name for name in sys.modules if name.startswith(('opentelemetry', 'prometheus_client'))])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
