"""The nodes that the engine knows once it has started, compared with those of the database."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

import services.federated
from common.database import Database, Repeatable, now_us
from common.errors import AlreadyExists, NotFound, Unavailable
from common.jobs import JobStore
from deepseek.federated.flower.engine import Engine, Link, NodeStatus
from deepseek.federated.flower.node_keys import read_public_key
from services.federated.federation import Node
from services.federated.federations import FederationService
from services.federated.nodes import NodeStore
from services.federated.runs import RunStore
from services.federated.superlink import SuperLink
from tests.services.federated.examples import public_key


class KeptNodes(Engine):
    """An engine that keeps its nodes from one start to the next, as Flower does. Fingerprints stand for keys."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}
        self.removed: set[str] = set()
        self.fail: BaseException | None = None

    def register_node(self, public_key: bytes) -> int:
        key = read_public_key(public_key).fingerprint if b" " in public_key else public_key.decode()
        if key in self.removed:
            raise AlreadyExists("NODE_KEY_IN_USE", "the key belonged to a node that was removed", field="public_key")
        number = self.known.setdefault(key, 100 + len(self.known))
        if self.fail:
            failure, self.fail = self.fail, None
            raise failure
        return number

    def unregister_node(self, node_id: int) -> None:
        self.removed |= {key for key, number in self.known.items() if number == node_id}
        self.known = {key: number for key, number in self.known.items() if number != node_id}

    def nodes(self) -> Sequence[NodeStatus]:
        return [NodeStatus(number, key, False) for key, number in sorted(self.known.items())]

    def open_run(self, run_key: str, max_reply_bytes: int) -> Link:
        raise NotImplementedError

    def close(self) -> None:
        """Has no processes to end."""


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    made = Database(f"sqlite:///{tmp_path / 'federated.db'}")
    made.migrate(Path(services.federated.__path__[0]) / "migrations")
    yield made
    made.close()


@pytest.fixture
def nodes(database: Database) -> NodeStore:
    store = NodeStore(database)
    with database.transaction() as session:
        for node_id in ("north", "south"):
            store.add(session, Node("default", "clinics", node_id, f"key-{node_id}", f"key-{node_id}", 0, now_us()))
    return store


@pytest.mark.parametrize(("exclusive", "left"), [(True, ["key-south"]), (False, ["key-north", "key-south"])])
def test_a_key_that_was_deleted_while_the_engine_did_not_run_is_removed_when_it_starts(
    nodes: NodeStore, exclusive: bool, left: list[str]
) -> None:
    engine = KeptNodes()
    SuperLink(lambda: engine, nodes, exclusive=exclusive).engine()
    assert sorted(engine.known) == ["key-north", "key-south"]
    nodes.delete(nodes.get("default", "federations/clinics/nodes/north"))
    SuperLink(lambda: engine, nodes, exclusive=exclusive).engine()
    assert sorted(engine.known) == left


class _Crash(BaseException):
    """The coordinator dies."""


def _service(database: Database, engine: Engine) -> FederationService:
    """The service of a coordinator that has just started."""
    nodes = NodeStore(database)
    return FederationService(database, nodes, RunStore(database, JobStore(database)), SuperLink(lambda: engine, nodes))


def _register(service: FederationService, node_id: str, key: str, request_id: str = "") -> Node:
    return service.register("default", "federations/f", node_id, key, Repeatable("RegisterNode", request_id))


@pytest.mark.parametrize("request_id", ["", "r1"])
@pytest.mark.parametrize("failure", [_Crash(), Unavailable("SUPERLINK_UNAVAILABLE", "it does not respond")])
def test_a_registration_that_ends_halfway_does_not_cost_the_node_its_key(
    database: Database, failure: BaseException, request_id: str
) -> None:
    engine, key = KeptNodes(), public_key()
    service = _service(database, engine)
    service.create("default", "f", "", Repeatable("CreateFederation"))
    engine.fail = failure
    with pytest.raises(type(failure)):
        _register(service, "north", key, request_id)
    service = _service(database, engine) if isinstance(failure, _Crash) else service
    node = _register(service, "north", key, request_id)
    assert engine.known == {node.fingerprint: node.flower_node_id}
    assert node.flower_node_id
    if not request_id:
        with pytest.raises(AlreadyExists) as caught:
            _register(service, "north", key)
        assert caught.value.reason == "NODE_EXISTS"


def test_a_node_whose_registration_was_not_repeated_is_registered_when_the_engine_starts(database: Database) -> None:
    engine, key = KeptNodes(), public_key()
    service = _service(database, engine)
    service.create("default", "f", "", Repeatable("CreateFederation"))
    engine.fail = _Crash()
    with pytest.raises(_Crash):
        _register(service, "north", key)
    service = _service(database, engine)
    with pytest.raises(AlreadyExists) as caught:
        _register(service, "south", key)
    assert caught.value.reason == "NODE_KEY_IN_USE"
    service.remove("default", "federations/f/nodes/north")
    assert not engine.known
    with pytest.raises(AlreadyExists) as burned:
        _register(service, "south", key, "r2")
    assert burned.value.reason == "NODE_KEY_IN_USE"
    with pytest.raises(NotFound):
        service.remove("default", "federations/f/nodes/south")
    assert _register(service, "south", public_key()).flower_node_id


def test_a_node_that_the_superlink_has_not_numbered_can_be_removed(database: Database) -> None:
    engine, key = KeptNodes(), public_key()
    service = _service(database, engine)
    service.create("default", "f", "", Repeatable("CreateFederation"))
    engine.fail = Unavailable("SUPERLINK_UNAVAILABLE", "it does not respond")
    with pytest.raises(Unavailable):
        _register(service, "north", key)
    service.remove("default", "federations/f/nodes/north")
    assert not engine.known
    assert engine.removed == {read_public_key(key.encode()).fingerprint}
