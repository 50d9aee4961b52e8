"""Converts the status of a failed call back to the error that the server raised."""

from typing import cast

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from common.auth.handshake import why_tls_failed
from common.auth.identity import Identity
from common.errors import ERROR_CLASSES, Internal, MeshError, Unavailable, Violation

# Reasons for errors that gRPC itself creates, without details.
_GRPC_REASONS = {
    "UNAVAILABLE": "SERVICE_UNREACHABLE",
    "RESOURCE_EXHAUSTED": "TOO_MANY_CALLS",
    "UNIMPLEMENTED": "UNKNOWN_METHOD",
    "UNKNOWN": "INTERNAL",
}


def from_status(error: grpc.RpcError, *, address: str = "", identity: Identity | None = None) -> MeshError:
    """Returns the MeshError for a failed call: the error that the server raised, or one for an error in gRPC itself.

    Args:
        error: The failed call.
        address: Address of the server, shown in the message if the server is unreachable.
        identity: Identity of the client; None means no TLS.
    """
    code = error.code().name
    reason, message = _GRPC_REASONS.get(code, code), error.details() or code
    if code == "RESOURCE_EXHAUSTED" and "larger than max" in message:
        # gRPC's text contains the size of the message and the limit.
        reason, message = "MESSAGE_TOO_LARGE", f"{message}; send or request less in one message"
    violations: list[Violation] = []
    retry_delay_s = None
    try:
        status = rpc_status.from_call(cast(grpc.Call, error))
    except (ValueError, DecodeError):
        status = None  # the details do not match the status, because a proxy answered
    for detail in status.details if status else ():
        info, request, retry = (
            error_details_pb2.ErrorInfo(),
            error_details_pb2.BadRequest(),
            error_details_pb2.RetryInfo(),
        )
        if detail.Unpack(info):
            reason = info.reason
        elif detail.Unpack(request):
            violations = [Violation(one.field, one.description) for one in request.field_violations]
        elif detail.Unpack(retry):
            delay: Duration = retry.retry_delay
            retry_delay_s = delay.seconds + delay.nanos / 1e9
    if code == message == "CANCELLED":
        # Only a stopping server sends this, for calls that it has not started or can no longer wait for.
        return Unavailable("SERVER_STOPPING", "the service stopped during the call; try again", retry_delay_s=1)
    if reason == "SERVICE_UNREACHABLE" and address and not status:
        if cause := why_tls_failed(message, address, identity):
            return Unavailable("TLS_FAILED", f"TLS with {address} failed: {cause}")
        message = f"no server responds at {address}; start the mesh with `deepseek up`"
    return ERROR_CLASSES.get(code, Internal)(reason, message, violations=violations, retry_delay_s=retry_delay_s)
