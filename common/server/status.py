"""Errors as google.rpc statuses, small enough to arrive.

A status travels in the trailing metadata, of which a stock client takes 8 KiB: what does not fit is cut, since a client
that gets too much sees nothing but a broken stream.
"""

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from common.errors import MeshError
from common.paths import without_paths

DOMAIN = "deepseek.mesh"
"""Domain of the reasons in `ErrorInfo`."""

# gRPC sends the message twice, once percent-encoded (up to three bytes for one), and the details in base64.
_MESSAGE_BYTES = 1024
_VIOLATIONS_BYTES = 2048


def to_status(error: MeshError) -> status_pb2.Status:
    """The status of an error, with `ErrorInfo`, `BadRequest` and `RetryInfo` details (google.rpc error model).

    Paths of this machine are removed; the log has them.
    """
    details: list[Message] = [error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)]
    message = without_paths(error.message)
    request = error_details_pb2.BadRequest()
    for violation in error.violations:
        one = error_details_pb2.BadRequest.FieldViolation(
            field=_cut(violation.field, 256), description=_cut(without_paths(violation.description), _MESSAGE_BYTES)
        )
        if request.ByteSize() + one.ByteSize() > _VIOLATIONS_BYTES:
            break
        request.field_violations.append(one)
    if request.field_violations:
        details.append(request)
    if error.retry_delay_s is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromNanoseconds(int(error.retry_delay_s * 1e9))
        details.append(retry)
    status = status_pb2.Status(code=grpc.StatusCode[error.code].value[0], message=_cut(message, _MESSAGE_BYTES))
    for detail in details:
        packed = AnyMessage()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def _cut(text: str, size: int) -> str:
    """At most `size` bytes of a text; what is not Unicode, such as a broken file name, becomes question marks."""
    data = text.encode(errors="replace")
    return data.decode() if len(data) <= size else data[: size - 3].decode(errors="ignore") + "…"
