"""Channels to services, with a default deadline, retries while a service is unavailable, and errors as MeshErrors.

A stub on such a channel raises the same error as the server: its class (`common.errors`), reason, fields and retry
delay are the same. No caller sees a `grpc.RpcError`. gRPC retries unary calls that fail with UNAVAILABLE, with
exponential backoff. Calls that create resources are safe to retry because they carry a `request_id`. Streams are never
retried: gRPC loses messages or hangs when it resends a stream (docs/decisions/0006), and the callers of streams know
where to resume. A silent connection counts as broken after 15 s (`common.keepalive`).
"""

from common.channel.channel import MAX_MESSAGE_BYTES, open_channel
from common.channel.status import from_status

__all__ = ["MAX_MESSAGE_BYTES", "from_status", "open_channel"]
