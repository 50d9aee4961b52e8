"""Starts the process of a service: reads the settings, and only then imports the modules that load slowly."""

import logging
from collections.abc import Sequence

from common.config import ServiceSettings, load_settings
from common.errors import MeshError
from common.processes import die_with
from common.telemetry import configure_logging

_logger = logging.getLogger(__name__)


def run(cls: type[ServiceSettings], argv: Sequence[str] | None = None) -> int:
    """Runs the process of a service.

    The service's module is imported only after the settings were read, so `--help` and errors about invalid settings
    appear without delay.

    Args:
        cls: Settings of the service.
        argv: Flags; None means the arguments of this process.

    Returns:
        The exit status: 0 after a normal shutdown; 1 if the service could not start, in which case the last log line
        states the reason.
    """
    name = cls.service.name
    configure_logging(name, "INFO")
    try:
        settings = load_settings(cls, argv)
        if settings.parent_pid:
            die_with(settings.parent_pid)
        configure_logging(name, settings.log_level)
        from common.server.process import print_audit_head, serve_service

        if settings.audit_head:
            print_audit_head(settings)
            return 0
        return serve_service(settings)
    except MeshError as error:
        _logger.error("%s", error.message, extra={"code": error.code, "reason": error.reason, "field": error.field})
        return 1
