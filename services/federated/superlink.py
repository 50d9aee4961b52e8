"""The SuperLink: the engine that carries tasks to nodes, started when it is first needed.

Flower is imported only then, so a mesh without federations does not load it.

Flower's database is not part of a backup. Whenever the engine starts, the nodes in the coordinator's database are
registered with it again, which gives a node a new id if Flower has lost the old one. Nodes that only Flower knows are
removed: their federation was deleted while the engine did not run.
"""

import logging
import threading
from collections.abc import Callable

from common.errors import AlreadyExists, FailedPrecondition, Unavailable
from deepseek.federated.flower.engine import Engine
from services.federated.federation import Node
from services.federated.nodes import NodeStore
from services.federated.settings import FederatedSettings

_logger = logging.getLogger(__name__)


class SuperLink:
    """Starts the engine once, and shares it. Thread-safe.

    Args:
        open_engine: Starts the engine.
        nodes: Nodes to register with the engine.
        exclusive: Whether to remove all other nodes from the engine. An external SuperLink may have nodes of other
            users, and Flower never accepts the key of a removed node again.
    """

    def __init__(self, open_engine: Callable[[], Engine], nodes: NodeStore, *, exclusive: bool = True) -> None:
        self._open_engine = open_engine
        self._nodes = nodes
        self._exclusive = exclusive
        self._starting = threading.Lock()
        self._engine: Engine | None = None
        self._closed = False

    def engine(self) -> Engine:
        """Returns the engine, and starts it first if it is not running.

        Raises:
            Unavailable: SUPERLINK_UNAVAILABLE.
        """
        with self._starting:
            if self._closed:
                raise Unavailable("SUPERLINK_UNAVAILABLE", "the coordinator is stopping", retry_delay_s=1)
            if self._engine is None:
                try:
                    engine = self._open_engine()
                except FailedPrecondition as error:  # the SuperLink ended at once; its message says why
                    raise Unavailable("SUPERLINK_UNAVAILABLE", error.message, retry_delay_s=5) from error
                try:
                    nodes = self._nodes.all()
                    for node in nodes:
                        self._register(engine, node)
                    self._remove_others(engine, {node.fingerprint for node in nodes})
                except BaseException:
                    engine.close()
                    raise
                self._engine = engine
            return self._engine

    @property
    def running(self) -> Engine | None:
        """The engine if it has been started, else None. Does not wait for one that is starting."""
        return self._engine

    def start_if_needed(self) -> None:
        """Starts the engine in the background if there are nodes, so that they can connect again after a restart."""
        if self._nodes.all():
            threading.Thread(target=self._start, name="superlink", daemon=True).start()

    def close(self) -> None:
        """Ends the engine. Idempotent."""
        with self._starting:
            self._closed = True
            if self._engine is not None:
                self._engine.close()

    def _register(self, engine: Engine, node: Node) -> None:
        try:
            self._nodes.renumber(node, engine.register_node(node.public_key.encode()))
        except AlreadyExists as error:  # a call that removes the node has not ended; it can be repeated
            _logger.warning("%s cannot connect: %s", node.name, error)

    def _remove_others(self, engine: Engine, fingerprints: set[str]) -> None:
        for status in engine.nodes():
            if status.fingerprint in fingerprints:
                continue
            if self._exclusive:
                engine.unregister_node(status.node_id)
                _logger.info("removed the key %s, which no longer belongs to a node", status.fingerprint)
            else:
                _logger.warning(
                    "the SuperLink accepts the key %s, which belongs to no node of this coordinator", status.fingerprint
                )

    def _start(self) -> None:
        try:
            self.engine()
        except Unavailable as error:
            _logger.warning("the SuperLink did not start; it is started again when it is needed: %s", error)


def engine_opener(settings: FederatedSettings) -> Callable[[], Engine]:
    """Returns the function that starts the engine with the settings of the coordinator."""

    def open_engine() -> Engine:
        from deepseek.federated.flower.flower_engine import FlowerEngine, FlowerSettings
        from deepseek.federated.flower.superlink import SuperLinkAddress

        logging.getLogger("httpx").setLevel(logging.WARNING)  # otherwise it logs each request to the SuperLink
        external = None
        if settings.superlink:
            external = SuperLinkAddress(settings.superlink, settings.superlink_root_certificates)
        address = settings.node_address or settings.node_listen
        return FlowerEngine(
            FlowerSettings(
                home=settings.home / "federated" / "superlink",
                external=external,
                hosts=[address.rpartition(":")[0].strip("[]")] if address else [],
                listen=settings.node_listen,
            )
        )

    return open_engine
