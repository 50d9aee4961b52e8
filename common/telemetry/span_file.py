"""Exports spans to a file, in the format of OpenTelemetry's file exporter: OTLP/JSON, one line per export.

Any number of processes may write to one file, so a whole mesh on one machine can share it. A process locks the file
before it writes a line, and rotates a full file under the same lock.
"""

import contextlib
import fcntl
import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.trace import SpanKind, StatusCode

_KINDS = {SpanKind.INTERNAL: 1, SpanKind.SERVER: 2}
_STATUSES = {StatusCode.UNSET: 0, StatusCode.OK: 1, StatusCode.ERROR: 2}

_logger = logging.getLogger(__name__)


class SpanFile(SpanExporter):
    """Appends spans to a file. Thread-safe.

    Args:
        path: The file. A missing folder is created.
        max_bytes: Size above which the file is rotated: it becomes `<name>.1`, `<name>.1` becomes `<name>.2`, etc.
        num_kept: Number of rotated files to keep.
    """

    def __init__(self, path: Path, *, max_bytes: int = 64 << 20, num_kept: int = 3) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._num_kept = num_kept

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        """Writes the spans as one line."""
        line = (json.dumps(to_otlp(spans), separators=(",", ":")) + "\n").encode()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._locked() as file:
                os.write(file, line)
                if os.fstat(file).st_size > self._max_bytes:
                    self._rotate()
        except OSError as error:
            _logger.warning("cannot write spans to %s: %s", self._path, error.strerror)
            return SpanExportResult.FAILURE
        return SpanExportResult.SUCCESS

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        """Opens the file and then locks it; starts over if another process rotated the file between the two steps."""
        while True:
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                fcntl.flock(file, fcntl.LOCK_EX)
                if self._is_here(file):
                    yield file
                    return
            finally:
                os.close(file)

    def _is_here(self, file: int) -> bool:
        try:
            return os.path.samestat(self._path.stat(), os.fstat(file))
        except FileNotFoundError:
            return False

    def _rotate(self) -> None:
        kept = [self._path.with_name(f"{self._path.name}.{number}") for number in range(1, self._num_kept + 1)]
        for newer, older in reversed(list(zip([self._path, *kept], kept, strict=False))):
            if newer.exists():
                newer.replace(older)


def to_otlp(spans: Sequence[ReadableSpan]) -> dict[str, Any]:
    """Returns an ExportTraceServiceRequest in OTLP's JSON encoding, with hexadecimal ids and numeric enums."""
    scope = {"name": "deepseek.mesh"}
    return {
        "resourceSpans": [
            {
                "resource": {"attributes": _attributes(spans[0].resource.attributes)},
                "scopeSpans": [{"scope": scope, "spans": [_span(span) for span in spans]}],
            }
        ]
    }


def _span(span: ReadableSpan) -> dict[str, Any]:
    own = span.get_span_context()
    assert own is not None
    document: dict[str, Any] = {
        "traceId": f"{own.trace_id:032x}",
        "spanId": f"{own.span_id:016x}",
        "name": span.name,
        "kind": _KINDS[span.kind],
        "startTimeUnixNano": str(span.start_time),
        "endTimeUnixNano": str(span.end_time),
        "attributes": _attributes(span.attributes or {}),
        "status": {"code": _STATUSES[span.status.status_code]},
    }
    if span.parent is not None:
        document["parentSpanId"] = f"{span.parent.span_id:016x}"
    if span.status.description:
        document["status"]["message"] = span.status.description
    return document


def _attributes(attributes: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: Any) -> dict[str, Any]:
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    return {"stringValue": str(value)}
