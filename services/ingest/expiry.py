"""Drops uploads that their clients have left behind: a pass at the start, and then one every so often.

Nothing has to be exact: passes of several processes on one database do not disturb each other, and one that fails is
made up for by the next. Each drop is in the audit log before it is final: what cannot be recorded stays.
"""

import logging
import threading

from common.errors import MeshError
from common.telemetry.audit import AuditLog
from services.ingest.uploads import Uploads

MAX_INTERVAL_S = 3600.0
_log = logging.getLogger(__name__)


class Expiry:
    """The passes, in a thread of their own.

    Args:
        uploads: What expires.
        audit: Where it is recorded.
        idle_s: Seconds without a write after which an open upload is dropped.
    """

    def __init__(self, uploads: Uploads, audit: AuditLog, idle_s: float) -> None:
        self._uploads = uploads
        self._audit = audit
        self._idle_s = idle_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="upload-expiry", daemon=True)

    def start(self) -> None:
        """Starts the passes; called once."""
        self._thread.start()

    def stop(self) -> None:
        """Ends them, after the one under way."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while True:
            try:
                for name in self._uploads.expire(round(self._idle_s * 1_000_000), self._record):
                    _log.info("dropped %s: nobody has written to it for %g s", name, self._idle_s)
            except MeshError as error:
                _log.warning("cannot drop old uploads: %s", error)
            except Exception:  # noqa: BLE001  a bug must not end the passes for good
                _log.exception("bug in the expiry of uploads; it goes on")
            if self._stopping.wait(min(MAX_INTERVAL_S, self._idle_s / 4)):
                return

    def _record(self, tenant: str, name: str) -> None:
        self._audit.append(tenant=tenant, subject="ingest", method="ingest.expire", resource=name, reason="UPLOAD_IDLE")
