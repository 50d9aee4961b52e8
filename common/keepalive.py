"""How both ends of a connection learn that the other has gone without a word.

A machine that loses power, or a firewall that forgets a connection, closes nothing: who only listens, a stream without
a deadline above all, would wait for ever. So an end that has calls under way and hears nothing asks, and counts the
connection as broken if no answer comes: calls fail with UNAVAILABLE, and a server's threads are free again.
"""

_TIME_MS = 10_000
_TIMEOUT_MS = 5_000

KEEPALIVE = (
    ("grpc.keepalive_time_ms", _TIME_MS),
    ("grpc.keepalive_timeout_ms", _TIMEOUT_MS),
    # Also for the questions by which gRPC measures the line: while one is open, it asks no other.
    ("grpc.http2.ping_timeout_ms", _TIMEOUT_MS),
    # By default gRPC stops asking after two questions without data in between.
    ("grpc.http2.max_pings_without_data", 0),
)
"""Options of a channel and of a server."""

MIN_PING_INTERVAL_MS = _TIME_MS // 2
"""What a server bears from its clients; who asks more often is cut off."""
