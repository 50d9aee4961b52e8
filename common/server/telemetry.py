"""The telemetry of a service's process: traces, metrics and the audit log, as configured by the service's settings."""

import logging
from collections.abc import Callable, Mapping

from common.artifacts import ArtifactStore
from common.artifacts.measured import MeasuredStore
from common.auth.identity import Identity
from common.config import ServiceSettings
from common.database import Database
from common.jobs import JobStore
from common.telemetry.anchors import DatabaseAnchor
from common.telemetry.audit import AuditLog
from common.telemetry.calls import CallObserver, ResourceFields
from common.telemetry.traces import Tracer

_logger = logging.getLogger(__name__)


class Telemetry:
    """The telemetry of one process. Thread-safe; `close` exports the last spans and anchors the audit log.

    Args:
        settings: Settings of the service.
        database: Migrated database of the service, which holds the anchor of the audit log.

    Attributes:
        tracer: Tracer that creates the spans of the process.
        audit: The audit log.
        observer: Observer of the server's calls.
        metrics_address: `host:port` of the metrics; empty if the process serves none.

    Raises:
        MeshError: The audit log or the port of the metrics cannot be used.
    """

    def __init__(self, settings: ServiceSettings, database: Database) -> None:
        self.metrics_address = ""
        self._metrics = None
        if settings.metrics_port is not None:
            from common.telemetry.metrics import Metrics

            self._metrics = Metrics()
            if settings.identity:
                self._metrics.watch_certificate(Identity(settings.identity).expires)
            port = self._metrics.serve(settings.host, settings.metrics_port)
            self.metrics_address = f"{settings.host}:{port}"
            _logger.info("metrics are at http://%s/metrics", self.metrics_address)
        self.tracer = Tracer(settings.service.name, settings.trace_target, sampling=settings.trace_sampling)
        self.audit = AuditLog(settings.audit_file, settings.service.name, DatabaseAnchor(database, settings.audit_file))
        self.observer = CallObserver(
            self.tracer, metrics=self._metrics, audit=self.audit, fields=ResourceFields.of(settings.service)
        )

    def measured(self, store: ArtifactStore) -> ArtifactStore:
        """Returns the store, wrapped in a `MeasuredStore` if the process serves metrics."""
        return MeasuredStore(store, self._metrics.count_store_operation) if self._metrics else store

    def watch_jobs(self, jobs: JobStore) -> None:
        """Adds the number of jobs to the metrics."""
        if self._metrics:
            self._metrics.watch_jobs(jobs.count)

    def watch_served(self, count: Callable[[], Mapping[tuple[str, str, str, str], int]]) -> None:
        """Adds the served variants of model versions to the metrics; see `Metrics.watch_served`."""
        if self._metrics:
            self._metrics.watch_served(count)

    def close(self) -> None:
        """Closes the audit log, the tracer and the metrics. Idempotent."""
        self.audit.close()
        self.tracer.close()
        if self._metrics:
            self._metrics.close()
