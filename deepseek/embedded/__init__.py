"""The embedded mesh: one process per service, on loopback, with a directory as the store and SQLite for state.

Laptops and the demo use an embedded mesh by default. Its services either exit with the process that started them
(`stay=False`) or run until `stop_mesh` is called (`stay=True`). In both cases, clients find the addresses of the
services in the mesh file.
"""

from deepseek.embedded.health import ServiceStatus, status
from deepseek.embedded.home import Access
from deepseek.embedded.mesh import EmbeddedMesh, start_mesh, stop_mesh
from deepseek.embedded.supervisor import MAX_RESTARTS, PATIENCE_S, Supervisor

__all__ = [
    "MAX_RESTARTS",
    "PATIENCE_S",
    "Access",
    "EmbeddedMesh",
    "ServiceStatus",
    "Supervisor",
    "start_mesh",
    "status",
    "stop_mesh",
]
