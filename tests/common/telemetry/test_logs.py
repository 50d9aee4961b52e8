import json
import logging
import subprocess
import sys

import pytest

from common.telemetry import JsonFormatter
from common.telemetry.traces import Tracer


def test_a_log_line_is_one_json_object_with_its_extra_fields() -> None:
    record = logging.makeLogRecord(
        {"msg": "took %d\nlines", "args": (3,), "levelname": "INFO", "name": "n", "method": "/m"}
    )
    line = JsonFormatter("example").format(record)
    entry = json.loads(line)
    assert "\n" not in line
    assert (entry["service"], entry["message"], entry["method"], entry["level"]) == (
        "example",
        "took 3\nlines",
        "/m",
        "INFO",
    )


def test_a_traceback_is_part_of_the_line() -> None:
    try:
        raise ValueError("x")
    except ValueError as error:
        record = logging.makeLogRecord({"msg": "failed", "exc_info": (ValueError, error, error.__traceback__)})
    assert "ValueError: x" in json.loads(JsonFormatter("example").format(record))["traceback"]


def test_logs_go_to_standard_error_from_the_level_on() -> None:
    program = (
        "import logging\nfrom common.telemetry import configure_logging\nconfigure_logging('example', 'WARNING')\n"
        "logging.getLogger('a').info('quiet')\nlogging.getLogger('a').warning('ü \\udcff', extra={'method': '/m'})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["method"] == "/m"


def test_a_line_names_the_trace_that_it_belongs_to() -> None:
    record = logging.makeLogRecord({"msg": "x"})
    tracer = Tracer("example")
    with tracer.span("work") as span:
        entry = json.loads(JsonFormatter("example").format(record))
    assert (entry["trace_id"], entry["span_id"]) == (span.context.trace_id, span.context.span_id)
    assert "trace_id" not in json.loads(JsonFormatter("example").format(record))


SECRETS = {
    "authorization: Bearer s3cr3t-t0ken": "s3cr3t",
    "('authorization', 'Bearer eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhIn0.c2ln')": "eyJ",
    "token eyJhbGciOiJFZERTQSJ9.eyJzdWIiOiJhIn0.c2ln is expired": "eyJ",
    "cannot reach postgresql://mesh:hunter2@db:5432/mesh": "hunter2",
    "s3+https://key:p@ss@host/bucket": "p@ss",
    "password=hunter2": "hunter2",
    '{"secret_key": "hunter2", "bucket": "b"}': "hunter2",
    "API_KEY: hunter2": "hunter2",
    "-----BEGIN PRIVATE KEY-----\nMC4CAQ\n-----END PRIVATE KEY-----": "MC4CAQ",
}


@pytest.mark.parametrize(("text", "secret"), SECRETS.items())
def test_a_secret_never_reaches_the_log(text: str, secret: str) -> None:
    try:
        raise ValueError(text)
    except ValueError as error:
        raised = (ValueError, error, error.__traceback__)
    values = {"msg": "%s", "args": (text,), "detail": text, "nested": {"of": [text]}, "error": ValueError(text)}
    line = JsonFormatter("example").format(logging.makeLogRecord({**values, "exc_info": raised}))
    assert secret not in line
    assert line.count("[redacted]") >= 5


def test_a_field_named_like_a_secret_is_masked_whatever_it_holds() -> None:
    record = logging.makeLogRecord({"msg": "x", "access_token": "abc", "store_secret_key_file": "/run/secrets/key"})
    entry = json.loads(JsonFormatter("example").format(record))
    assert entry["access_token"] == "[redacted]"
    assert entry["store_secret_key_file"] == "/run/secrets/key"


def test_what_is_no_secret_stays() -> None:
    text = "http://127.0.0.1:7001/x@1 store_secret_key_file=/run/key took 3 tokens in jobs/abc at a@b"
    assert json.loads(JsonFormatter("example").format(logging.makeLogRecord({"msg": text})))["message"] == text
