import json
import logging
import subprocess
import sys

from common.telemetry import JsonFormatter


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
