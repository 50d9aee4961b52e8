"""Handles requests about federations and their nodes."""

import logging
from collections.abc import Sequence

from sqlalchemy import delete, func, select
from sqlalchemy.orm import Session

from common.database import Database, PageRequest, Repeatable, fetch_page, now_us, once
from common.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, Unavailable
from common.names import check_id, parse
from deepseek.federated.flower.engine import Engine
from services.federated.federation import Federation, Node
from services.federated.nodes import NodeStore
from services.federated.runs import RunStore
from services.federated.superlink import SuperLink
from services.federated.tables import FederationRow, NodeRow

FEDERATION_PATTERN = "federations/{}"
MAX_DESCRIPTION = 1000
MAX_KEY = 1000
"""Maximum number of characters of a public key; one on P-384 has about 230, and a comment may follow."""

_logger = logging.getLogger(__name__)


class FederationService:
    """Creates, returns and deletes federations, and registers and removes their nodes. Thread-safe.

    Args:
        database: Migrated database.
        nodes: Nodes in the same database.
        runs: Runs in the same database.
        superlink: The SuperLink, at which nodes are registered.
    """

    def __init__(self, database: Database, nodes: NodeStore, runs: RunStore, superlink: SuperLink) -> None:
        self._database = database
        self._nodes = nodes
        self._runs = runs
        self._superlink = superlink

    def create(self, tenant: str, federation_id: str, description: str, call: Repeatable) -> Federation:
        """Creates a federation.

        Raises:
            InvalidArgument: BAD_NAME or BAD_VALUE.
            AlreadyExists: FEDERATION_EXISTS or REQUEST_ID_REUSED.
        """
        check_id(federation_id, field="federation_id")
        if len(description) > MAX_DESCRIPTION or "\0" in description:
            message = f"the description may have at most {MAX_DESCRIPTION} characters, and no NUL"
            raise InvalidArgument("BAD_VALUE", message, field="description")
        with self._database.transaction() as session:

            def effect() -> str:
                if session.get(FederationRow, (tenant, federation_id)) is not None:
                    message = f"federations/{federation_id} exists; choose another id"
                    raise AlreadyExists("FEDERATION_EXISTS", message, field="federation_id")
                row = FederationRow(
                    tenant=tenant, federation_id=federation_id, description=description, create_us=now_us()
                )
                session.add(row)
                session.flush()
                return f"federations/{federation_id}"

            name = once(session, tenant, call, effect)
        return self.get(tenant, name)

    def get(self, tenant: str, name: str, *, field: str = "name") -> Federation:
        """Returns a federation.

        Raises:
            NotFound: FEDERATION_NOT_FOUND.
            InvalidArgument: BAD_NAME.
        """
        (federation_id,) = parse(name, FEDERATION_PATTERN, field=field)
        with self._database.snapshot() as session:
            row = self.row(session, tenant, federation_id, field=field)
            return _federation(row, _num_nodes(session, [row]))

    def list(self, tenant: str, page: PageRequest) -> tuple[Sequence[Federation], str]:
        """Returns a page of federations, ordered by id, and the token of the next page."""
        query = select(FederationRow).where(FederationRow.tenant == tenant)
        with self._database.snapshot() as session:
            rows, token = fetch_page(session, query, (FederationRow.federation_id,), page, scope="federations")
            num_nodes = _num_nodes(session, rows)
            return [_federation(row, num_nodes) for row in rows], token

    def delete(self, tenant: str, name: str) -> None:
        """Deletes a federation with its nodes and runs.

        Raises:
            NotFound: FEDERATION_NOT_FOUND.
            FailedPrecondition: RUN_ACTIVE.
            InvalidArgument: BAD_NAME.
        """
        (federation_id,) = parse(name, FEDERATION_PATTERN)
        with self._database.transaction() as session:
            row = self.row(session, tenant, federation_id)
            nodes = self._nodes.in_session(session, tenant, federation_id)
            if self._runs.is_active(session, tenant, federation_id):
                message = f"a run of {name} has not ended; stop it first"
                raise FailedPrecondition("RUN_ACTIVE", message, field="name")
            self._runs.delete_all(session, tenant, federation_id)
            session.execute(delete(NodeRow).where(NodeRow.tenant == tenant, NodeRow.federation_id == federation_id))
            session.delete(row)
        if (engine := self._superlink.running) is not None:
            for node in nodes:
                try:
                    _unregister(engine, node)
                except Unavailable as error:  # a node without a row receives no tasks
                    _logger.warning("%s is still registered with the SuperLink: %s", node.name, error)

    def register(self, tenant: str, federation: str, node_id: str, public_key: str, call: Repeatable) -> Node:
        """Registers a node.

        Raises:
            NotFound: FEDERATION_NOT_FOUND.
            InvalidArgument: BAD_NAME or BAD_NODE_KEY.
            AlreadyExists: NODE_EXISTS, NODE_KEY_IN_USE or REQUEST_ID_REUSED.
            Unavailable: SUPERLINK_UNAVAILABLE. The node is stored, and registered when the SuperLink starts, or when
                the call is repeated.
        """
        found = self.get(tenant, federation, field="parent")
        check_id(node_id, field="node_id")
        if len(public_key) > MAX_KEY:
            message = f"the public key has {len(public_key)} characters; send the content of the file `node.key.pub`"
            raise InvalidArgument("BAD_NODE_KEY", message, field="public_key")
        # Imported here, because it loads the cryptography library, which only this method needs.
        from deepseek.federated.flower.node_keys import read_public_key

        key = read_public_key(public_key.encode(), field="public_key")
        node = Node(tenant, found.federation_id, node_id, key.text, key.fingerprint, 0, now_us())
        # Stored first: when the SuperLink starts, it removes keys that no node has, and never accepts them again.
        with self._database.transaction() as session:

            def effect() -> str:
                self.row(session, tenant, found.federation_id, field="parent")
                if not self._nodes.is_unfinished(session, node):
                    self._nodes.add(session, node)
                return node.name

            name = once(session, tenant, call, effect)
        # Registering the same key again returns the same node, so the call can be repeated wherever it ends.
        engine = self._superlink.engine()
        try:
            flower_node_id = engine.register_node(node.public_key.encode())
        except AlreadyExists:  # the key of a removed node
            self._nodes.delete(node)
            raise
        self._nodes.renumber(node, flower_node_id)
        try:
            return self._nodes.get(tenant, name)
        except NotFound:  # removed meanwhile
            engine.unregister_node(flower_node_id)
            raise

    def list_nodes(self, tenant: str, federation: str, page: PageRequest) -> tuple[Sequence[Node], str]:
        """Returns a page of nodes, ordered by id, and the token of the next page.

        Raises:
            NotFound: FEDERATION_NOT_FOUND.
        """
        found = self.get(tenant, federation, field="parent")
        return self._nodes.list(tenant, found.federation_id, page)

    def online(self) -> set[str]:
        """Returns the fingerprints of the nodes that are connected; empty while the SuperLink does not respond."""
        if (engine := self._superlink.running) is None:
            return set()
        try:
            return {status.fingerprint for status in engine.nodes() if status.online}
        except Unavailable:
            return set()

    def remove(self, tenant: str, name: str) -> None:
        """Removes a node.

        Raises:
            NotFound: NODE_NOT_FOUND.
            InvalidArgument: BAD_NAME.
            Unavailable: SUPERLINK_UNAVAILABLE.
        """
        self._nodes.get(tenant, name)
        engine = self._superlink.engine()
        node = self._nodes.get(tenant, name)  # again: it may have got its id when the SuperLink started
        # First at the SuperLink: once this call has returned, the node must not be able to connect.
        _unregister(engine, node)
        self._nodes.delete(node)

    def row(self, session: Session, tenant: str, federation_id: str, *, field: str = "name") -> FederationRow:
        """Returns the row of a federation; raises NotFound (FEDERATION_NOT_FOUND) if there is none."""
        row = session.get(FederationRow, (tenant, federation_id))
        if row is None:
            message = f"federations/{federation_id} does not exist; `deepseek federated list` lists federations"
            raise NotFound("FEDERATION_NOT_FOUND", message, field=field)
        return row


def _unregister(engine: Engine, node: Node) -> None:
    """Removes a node at the SuperLink, also if the call that registers it has not stored its id."""
    for node_id in [node.flower_node_id] if node.flower_node_id else _ids(engine, node.fingerprint):
        engine.unregister_node(node_id)


def _ids(engine: Engine, fingerprint: str) -> list[int]:
    return [status.node_id for status in engine.nodes() if status.fingerprint == fingerprint]


def _num_nodes(session: Session, rows: Sequence[FederationRow]) -> dict[str, int]:
    query = (
        select(NodeRow.federation_id, func.count())
        .where(
            NodeRow.tenant.in_([row.tenant for row in rows]),
            NodeRow.federation_id.in_([row.federation_id for row in rows]),
        )
        .group_by(NodeRow.federation_id)
    )
    return dict(session.execute(query).all())


def _federation(row: FederationRow, num_nodes: dict[str, int]) -> Federation:
    num = num_nodes.get(row.federation_id, 0)
    return Federation(row.tenant, row.federation_id, row.description, num, row.create_us)
