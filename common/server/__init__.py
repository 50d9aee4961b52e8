"""gRPC servers of the mesh: made, run and drained in one way.

`make_server` binds and `serve` runs; `run` is all that a service's `__main__` calls. Servers are synchronous grpcio: a
bounded pool of threads for unary calls, a cap on streams beyond it, and one interceptor that maps errors
(`common.server.interceptor`).
"""

from common.auth import Caller
from common.server.interceptor import caller
from common.server.server import Hosted, MeshServer, make_server, run, serve

__all__ = ["Caller", "Hosted", "MeshServer", "caller", "make_server", "run", "serve"]
