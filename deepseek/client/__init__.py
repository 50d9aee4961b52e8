"""Clients of the services: `connect()` finds a mesh and returns one object for each of its parts."""

from deepseek.client.mesh import Mesh, MeshFile, ServiceAddress, StoreAddress, connect

__all__ = ["Mesh", "MeshFile", "ServiceAddress", "StoreAddress", "connect"]
