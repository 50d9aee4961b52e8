"""Logs to standard error, as one JSON object per line.

An entry contains the time, level, service, logger, message, the ids of the current trace and span, and the fields
passed as `extra`. Our code logs names, counts and reasons, but never secrets or the contents of samples. Text that
looks like a secret is masked (`common.telemetry.redaction`).
"""

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any

from common.telemetry.redaction import MASK, names_secret, redact
from common.telemetry.traces import current

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


class JsonFormatter(logging.Formatter):
    """Formats log records, each as one line of JSON.

    Args:
        service: Name of the service, which every line contains.
    """

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line for a record."""
        entry: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "service": self._service,
            "logger": record.name,
            "message": redact(record.getMessage()),
        }
        span = current()
        if span is not None:
            entry["trace_id"], entry["span_id"] = span.trace_id, span.span_id
        entry.update({name: _field(name, value) for name, value in vars(record).items() if name not in _STANDARD})
        if record.exc_info:
            entry["traceback"] = redact(self.formatException(record.exc_info))
        return json.dumps(entry, ensure_ascii=False)


def configure_logging(service: str, level: str) -> None:
    """Configures this process to log JSON lines to standard error.

    Args:
        service: Name of the service, which every line contains.
        level: Lowest level that is logged, e.g. `INFO`.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(service))
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.getLogger("alembic").setLevel(logging.WARNING)


def _field(name: str, value: Any) -> Any:
    if names_secret(name):
        return MASK
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {str(key): _field(str(key), each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_field("", each) for each in value]
    return redact(str(value))
