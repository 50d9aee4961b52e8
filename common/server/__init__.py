"""The mesh's gRPC servers: binding, running and draining.

`make_server` binds a server and `serve` runs it; `common.server.process` does both for a service. Servers use
synchronous grpcio with a bounded thread pool, a limit on streams that leaves threads for unary calls, and one
interceptor for authentication, limits and errors (`common.server.interceptor`).
"""

from common.auth import Caller
from common.call_context import caller, received
from common.server.server import GrpcService, MeshServer, make_server, serve

__all__ = ["Caller", "GrpcService", "MeshServer", "caller", "make_server", "received", "serve"]
