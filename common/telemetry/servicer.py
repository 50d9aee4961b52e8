"""Implements deepseek.audit.v1.AuditService on an AuditLog. Hosted by every service."""

import grpc

from common.telemetry.audit import AuditLog
from protos.audit.v1 import audit_pb2, audit_pb2_grpc


class AuditServicer(audit_pb2_grpc.AuditServiceServicer):
    """Reports the head of the audit log."""

    def __init__(self, log: AuditLog) -> None:
        self._log = log

    def GetAuditHead(
        self, request: audit_pb2.GetAuditHeadRequest, context: grpc.ServicerContext
    ) -> audit_pb2.GetAuditHeadResponse:
        """Returns the last record of the log."""
        head = self._log.head
        return audit_pb2.GetAuditHeadResponse(sequence=head.sequence, hash=head.hash, size_bytes=head.size_bytes)
