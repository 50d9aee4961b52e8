"""Federations and nodes, as read from their rows."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Federation:
    """A federation. The proto message `deepseek.federated.v1.Federation` documents the attributes."""

    tenant: str
    federation_id: str
    description: str
    num_nodes: int
    create_us: int

    @property
    def name(self) -> str:
        """Resource name, `federations/<id>`."""
        return f"federations/{self.federation_id}"


@dataclass(frozen=True)
class Node:
    """A registered node. The proto message `deepseek.federated.v1.Node` documents the attributes.

    `flower_node_id` is an unsigned 64-bit number; 0 until the node is registered at the SuperLink. It changes if the
    SuperLink loses its database.
    """

    tenant: str
    federation_id: str
    node_id: str
    public_key: str
    fingerprint: str
    flower_node_id: int
    create_us: int

    @property
    def name(self) -> str:
        """Resource name, `federations/<id>/nodes/<id>`."""
        return f"federations/{self.federation_id}/nodes/{self.node_id}"
