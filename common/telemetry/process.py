"""What every service's process has, by its settings, made once at start and closed last: database and telemetry."""

import logging
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path

from common.artifacts import ArtifactStore
from common.artifacts.measured import MeasuredStore
from common.auth import Identity
from common.config import ServiceSettings
from common.database import Database
from common.jobs import JobStore
from common.telemetry.anchors import DatabaseAnchor
from common.telemetry.audit import AuditLog
from common.telemetry.calls import CallObserver
from common.telemetry.traces import Tracer

_log = logging.getLogger(__name__)


def open_state(settings: ServiceSettings, migrations: Path, owned: ExitStack) -> "tuple[Database, Telemetry]":
    """The database of a service, migrated, and the telemetry of its process; `owned` closes both.

    Args:
        settings: Of the service.
        migrations: Directory of the database's.
        owned: What is closed when the process ends, last first.

    Raises:
        MeshError: The database, the audit log or the port of the metrics cannot be used.
    """
    database = Database(settings.state_url, schema=settings.service)
    owned.callback(database.close)
    database.migrate(migrations)
    telemetry = Telemetry(settings, database)
    owned.callback(telemetry.close)
    return database, telemetry


class Telemetry:
    """Thread-safe; `close` exports and anchors what is left.

    Args:
        settings: Of the service.
        database: Of the service, migrated; keeps the anchor of the audit log.

    Attributes:
        tracer: Makes the spans of the process.
        audit: The audit log.
        observer: Observes the calls of the process's server.
        metrics_address: `host:port` of the metrics; empty if there are none.

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
            _log.info("metrics are at http://%s/metrics", self.metrics_address)
        self.tracer = Tracer(settings.service, settings.trace_target, sampling=settings.trace_sampling)
        self.audit = AuditLog(settings.audit_file, settings.service, DatabaseAnchor(database, settings.audit_file))
        self.observer = CallObserver(self.tracer, metrics=self._metrics, audit=self.audit)

    def measured(self, store: ArtifactStore) -> ArtifactStore:
        """The store, measured if anybody can see it."""
        return MeasuredStore(store, self._metrics.count_store_operation) if self._metrics else store

    def watch_jobs(self, jobs: JobStore) -> None:
        """Shows the jobs in the metrics."""
        if self._metrics:
            self._metrics.watch_jobs(jobs.count)

    def watch_served(self, count: Callable[[], Mapping[tuple[str, str, str, str], int]]) -> None:
        """Exposes in the metrics which form of which model version is served; see `Metrics.watch_served`."""
        if self._metrics:
            self._metrics.watch_served(count)

    def close(self) -> None:
        """Ends all of it. Idempotent."""
        self.audit.close()
        self.tracer.close()
        if self._metrics:
            self._metrics.close()
