"""Observability of a process: logs, traces, metrics and the audit log.

This package imports only its logging module, which needs nothing but the standard library. A process loads the
OpenTelemetry SDK only if it exports spans, and the Prometheus client only if it serves metrics.
"""

from common.telemetry.logs import JsonFormatter, configure_logging

__all__ = ["JsonFormatter", "configure_logging"]
