"""Converts errors to google.rpc statuses that fit into the trailing metadata.

By default, a client accepts 8 KiB of trailing metadata. A client that receives more sees only a broken stream. Long
messages and long lists of violations are therefore truncated.
"""

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from common.errors import MeshError
from common.paths import without_paths

DOMAIN = "deepseek.mesh"
"""Domain of the error reasons, as reported in `ErrorInfo`."""

# gRPC sends the message twice, once in percent-encoding (up to three times as long), and the details in base64.
_MESSAGE_BYTES = 1024
_VIOLATIONS_BYTES = 2048


def to_status(error: MeshError) -> status_pb2.Status:
    """Returns the status of an error, with `ErrorInfo`, `BadRequest` and `RetryInfo` details (google.rpc error model).

    Paths of this machine are removed from the texts; the service's log contains the paths.
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
    """Truncates a text to `size` bytes. Invalid Unicode, e.g. in a broken file name, becomes question marks."""
    data = text.encode(errors="replace")
    return data.decode() if len(data) <= size else data[: size - 3].decode(errors="ignore") + "…"
