"""Deletes abandoned uploads when the service starts, and then at intervals.

Several processes that share a database may safely do this at once. Uploads that a failed pass leaves behind are deleted
by a later pass. The audit log records each deletion before the deletion takes effect; if recording fails, the upload is
kept.
"""

import logging
import threading

from common.errors import MeshError
from common.telemetry.audit import AuditLog
from services.ingest.uploads import Uploads

MAX_INTERVAL_S = 3600.0
_logger = logging.getLogger(__name__)


class Expiry:
    """Thread that deletes abandoned uploads.

    Args:
        uploads: Uploads of all tenants.
        audit: Audit log, which records the deletions.
        idle_s: Time without a write after which an open upload is deleted, in seconds.
    """

    def __init__(self, uploads: Uploads, audit: AuditLog, idle_s: float) -> None:
        self._uploads = uploads
        self._audit = audit
        self._idle_s = idle_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upload-expiry", daemon=True)

    def start(self) -> None:
        """Starts the thread. Must be called only once."""
        self._thread.start()

    def stop(self) -> None:
        """Ends the thread after the current pass."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                for name in self._uploads.expire(round(self._idle_s * 1_000_000), self._record):
                    _logger.info("deleted %s: no write for %g s", name, self._idle_s)
            except MeshError as error:
                _logger.warning("cannot delete abandoned uploads: %s", error)
            except Exception:
                _logger.exception("bug in the expiry of uploads; it continues")
            if self._stopping.wait(min(MAX_INTERVAL_S, self._idle_s / 4)):
                return

    def _record(self, tenant: str, name: str) -> None:
        self._audit.append(tenant=tenant, subject="ingest", method="ingest.expire", resource=name, reason="UPLOAD_IDLE")
