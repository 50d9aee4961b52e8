"""Client library: `connect()` reads a mesh file and returns a client that has one object per kind of resource."""

from deepseek.client.mesh import Mesh, connect
from deepseek.client.mesh_file import MeshFile, ServiceAddress, StoreAddress

__all__ = ["Mesh", "MeshFile", "ServiceAddress", "StoreAddress", "connect"]
