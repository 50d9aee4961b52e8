"""What can be seen of a process from outside: logs, traces, metrics and the audit log.

Only logs are imported here, and only the standard library with them: a process pays for the OpenTelemetry SDK once it
has somewhere to send spans to, and for the Prometheus client once it serves metrics.
"""

from common.telemetry.logs import JsonFormatter, configure_logging

__all__ = ["JsonFormatter", "configure_logging"]
