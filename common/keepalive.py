"""Keepalive pings, with which each end of a connection detects that the connection is dead.

When the other host loses power, or a firewall drops the connection, the connection is not closed, so a stream without a
deadline would wait forever. Therefore, an end that has open calls but receives nothing sends a ping. If the ping is not
answered, the connection counts as broken: calls fail with UNAVAILABLE, and the server's threads become free again.
"""

_TIME_MS = 10_000
_TIMEOUT_MS = 5_000

KEEPALIVE = (
    ("grpc.keepalive_time_ms", _TIME_MS),
    ("grpc.keepalive_timeout_ms", _TIMEOUT_MS),
    # Also applies to the pings with which gRPC measures bandwidth. While such a ping is pending, gRPC sends no other.
    ("grpc.http2.ping_timeout_ms", _TIMEOUT_MS),
    # By default, gRPC sends at most two pings without data in between.
    ("grpc.http2.max_pings_without_data", 0),
)
"""Options of all channels and servers."""

MIN_PING_INTERVAL_MS = _TIME_MS // 2
"""Minimum interval in milliseconds between two pings of a client. Clients that ping more often are disconnected."""
