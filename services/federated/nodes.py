"""Nodes in the database."""

from collections.abc import Sequence

from sqlalchemy import delete, select
from sqlalchemy.orm import Session

from common.database import Database, PageRequest, fetch_page, now_us
from common.errors import AlreadyExists, NotFound
from common.names import parse
from services.federated.federation import Node
from services.federated.tables import NodeRow

NODE_PATTERN = "federations/{}/nodes/{}"


class NodeStore:
    """The nodes of all federations. Thread-safe; several processes may share the database.

    Args:
        database: Migrated database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def get(self, tenant: str, name: str, *, field: str = "name") -> Node:
        """Returns a node.

        Raises:
            NotFound: NODE_NOT_FOUND.
            InvalidArgument: BAD_NAME.
        """
        federation_id, node_id = parse(name, NODE_PATTERN, field=field)
        with self._database.snapshot() as session:
            row = session.get(NodeRow, (tenant, federation_id, node_id))
        if row is None:
            message = f"{name} does not exist; `deepseek federated nodes` lists the nodes of a federation"
            raise NotFound("NODE_NOT_FOUND", message, field=field)
        return _node(row)

    def list(self, tenant: str, federation_id: str, page: PageRequest) -> tuple[Sequence[Node], str]:
        """Returns a page of a federation's nodes, ordered by id, and the token of the next page."""
        query = select(NodeRow).where(NodeRow.tenant == tenant, NodeRow.federation_id == federation_id)
        scope = f"federations/{federation_id}/nodes"
        with self._database.snapshot() as session:
            rows, token = fetch_page(session, query, (NodeRow.node_id,), page, scope=scope)
            return [_node(row) for row in rows], token

    def of(self, tenant: str, federation_id: str) -> Sequence[Node]:
        """Returns all nodes of a federation, in ascending order of their fingerprints."""
        with self._database.snapshot() as session:
            return self.in_session(session, tenant, federation_id)

    def in_session(self, session: Session, tenant: str, federation_id: str) -> Sequence[Node]:
        """Returns what `of` returns, as a transaction sees it."""
        query = select(NodeRow).where(NodeRow.tenant == tenant, NodeRow.federation_id == federation_id)
        return [_node(row) for row in session.scalars(query.order_by(NodeRow.fingerprint))]

    def all(self) -> Sequence[Node]:
        """Returns the nodes of all federations of all tenants."""
        with self._database.snapshot() as session:
            return [_node(row) for row in session.scalars(select(NodeRow).order_by(NodeRow.fingerprint))]

    def is_unfinished(self, session: Session, node: Node) -> bool:
        """Returns whether a node is stored with the same id and key, but has not been registered at the SuperLink."""
        row = session.get(NodeRow, (node.tenant, node.federation_id, node.node_id))
        return row is not None and row.fingerprint == node.fingerprint and not int(row.flower_node_id)

    def add(self, session: Session, node: Node) -> None:
        """Stores a new node.

        Raises:
            AlreadyExists: NODE_EXISTS, or NODE_KEY_IN_USE if a node of any tenant has the key.
        """
        if session.get(NodeRow, (node.tenant, node.federation_id, node.node_id)) is not None:
            message = f"{node.name} exists; choose another id, or remove the node first"
            raise AlreadyExists("NODE_EXISTS", message, field="node_id")
        if session.scalars(select(NodeRow.node_id).where(NodeRow.fingerprint == node.fingerprint)).first() is not None:
            message = f"a node with the key {node.fingerprint} is registered; generate a key for each node"
            raise AlreadyExists("NODE_KEY_IN_USE", message, field="public_key")
        session.add(
            NodeRow(
                tenant=node.tenant,
                federation_id=node.federation_id,
                node_id=node.node_id,
                public_key=node.public_key,
                fingerprint=node.fingerprint,
                flower_node_id=str(node.flower_node_id),
                create_us=now_us(),
            )
        )
        session.flush()

    def renumber(self, node: Node, flower_node_id: int) -> None:
        """Stores Flower's id of a node, unless it is stored already."""
        if node.flower_node_id == flower_node_id:
            return
        with self._database.transaction() as session:
            row = session.get(NodeRow, (node.tenant, node.federation_id, node.node_id))
            if row is not None and row.fingerprint == node.fingerprint:
                row.flower_node_id = str(flower_node_id)

    def delete(self, node: Node) -> None:
        """Deletes a node. Idempotent."""
        with self._database.transaction() as session:
            session.execute(
                delete(NodeRow).where(
                    NodeRow.tenant == node.tenant,
                    NodeRow.federation_id == node.federation_id,
                    NodeRow.node_id == node.node_id,
                )
            )


def _node(row: NodeRow) -> Node:
    return Node(
        row.tenant,
        row.federation_id,
        row.node_id,
        row.public_key,
        row.fingerprint,
        int(row.flower_node_id),
        row.create_us,
    )
