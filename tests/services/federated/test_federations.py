"""Federations and nodes over gRPC, with a real SuperLink."""

from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from common.errors import AlreadyExists, FailedPrecondition, InvalidArgument, MeshError, NotFound
from deepseek.client import Mesh
from protos.federated.v1 import federated_pb2 as pb
from protos.federated.v1.federated_pb2_grpc import FederatedServiceStub
from tests.harness.mesh import MeshProcesses
from tests.services.federated.examples import public_key, run_spec
from tests.services.trainer.tasks import PICTURE_FIELDS, add_dataset, pictures

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MeshProcesses]:
    with ExitStack() as owned:
        home = tmp_path_factory.mktemp("federations") / "home"
        made = MeshProcesses(home, owned)
        made.start("federated")
        add_dataset(made.registry.channel(), home / "store", "pictures", PICTURE_FIELDS, pictures())
        yield made


@pytest.fixture(scope="module")
def mesh(processes: MeshProcesses) -> Iterator[Mesh]:
    with Mesh(processes.file) as client:
        yield client


def test_a_mesh_without_nodes_runs_no_superlink(processes: MeshProcesses, mesh: Mesh) -> None:
    mesh.federated.create("lonely")
    assert list(mesh.federated.nodes("lonely")) == []
    assert not (processes.home / "federated").exists()


def test_a_federation_is_created_once(mesh: Mesh) -> None:
    made = mesh.federated.create("once", description="clinics", request_id="r1")
    assert mesh.federated.create("once", description="clinics", request_id="r1") == made
    with pytest.raises(AlreadyExists) as caught:
        mesh.federated.create("once")
    assert caught.value.reason == "FEDERATION_EXISTS"
    with pytest.raises(InvalidArgument) as refused:
        mesh.federated.create("long", description="x" * 1001)
    assert (refused.value.reason, refused.value.field) == ("BAD_VALUE", "description")


def test_a_run_of_a_federation_without_nodes_is_refused(mesh: Mesh) -> None:
    mesh.federated.create("empty")
    with pytest.raises(FailedPrecondition) as caught:
        mesh.federated.start("empty", run_spec("datasets/pictures/versions/1"))
    assert (caught.value.reason, caught.value.field) == ("NO_NODES", "parent")


def test_a_node_has_a_key_of_its_own(mesh: Mesh) -> None:
    mesh.federated.create("clinics")
    key = public_key()
    node = mesh.federated.register("clinics", "north", f"{key} somebody@somewhere", request_id="n1")
    assert (node.public_key, node.online) == (key, False)
    assert node.flower_node_id
    assert mesh.federated.register("clinics", "north", f"{key} somebody@somewhere", request_id="n1") == node
    for name, other, reason in (("north", public_key(), "NODE_EXISTS"), ("south", key, "NODE_KEY_IN_USE")):
        with pytest.raises(AlreadyExists) as caught:
            mesh.federated.register("clinics", name, other)
        assert caught.value.reason == reason
    with pytest.raises(AlreadyExists) as repeated:
        mesh.federated.register("clinics", "north", key)
    assert repeated.value.reason == "NODE_EXISTS"
    mesh.federated.create("banks")
    with pytest.raises(AlreadyExists) as elsewhere:
        mesh.federated.register("banks", "north", key)
    assert elsewhere.value.reason == "NODE_KEY_IN_USE"
    assert [one.name for one in mesh.federated.nodes("clinics")] == [node.name]


@pytest.mark.parametrize("key", ["", "ssh-ed25519 AAAA", "ecdsa-sha2-nistp384 AAAA", "x" * 1001])
def test_what_is_no_key_is_refused(mesh: Mesh, key: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        mesh.federated.register("lonely", "north", key)
    assert (caught.value.reason, caught.value.field) == ("BAD_NODE_KEY", "public_key")


def test_the_key_of_a_removed_node_is_not_accepted_again(mesh: Mesh) -> None:
    mesh.federated.create("moving")
    key = public_key()
    mesh.federated.register("moving", "north", key)
    mesh.federated.remove("moving/north")
    assert list(mesh.federated.nodes("moving")) == []
    with pytest.raises(NotFound) as caught:
        mesh.federated.remove("moving/north")
    assert caught.value.reason == "NODE_NOT_FOUND"
    with pytest.raises(AlreadyExists) as refused:
        mesh.federated.register("moving", "north", key)
    assert refused.value.reason == "NODE_KEY_IN_USE"
    assert mesh.federated.register("moving", "north", public_key()).name == "federations/moving/nodes/north"


def test_a_federation_is_deleted_with_its_nodes_and_runs_but_not_while_one_is_active(mesh: Mesh) -> None:
    mesh.federated.create("short")
    mesh.federated.register("short", "north", public_key())
    run = mesh.federated.start("short", run_spec("datasets/pictures/versions/1"))
    with pytest.raises(FailedPrecondition) as caught:
        mesh.federated.delete("short")
    assert caught.value.reason == "RUN_ACTIVE"
    mesh.federated.stop(run.name)
    for _ in mesh.federated.watch(run.name):
        pass
    mesh.federated.delete("short")
    for call in (lambda: mesh.federated.get("short"), lambda: mesh.federated.run(run.name)):
        with pytest.raises(NotFound):
            call()
    mesh.federated.create("short")
    assert mesh.federated.register("short", "north", public_key()).name == "federations/short/nodes/north"


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"private_key_file": "node.key"}, "private_key_file"),
        ({"data": 'a"b'}, "data"),
        ({"work_folder": "/a\nb"}, "work_folder"),
        ({"root_certificate_file": "/" + "x" * 4096}, "root_certificate_file"),
        ({"port": 70000}, "port"),
    ],
)
def test_places_that_no_command_can_name_are_refused(mesh: Mesh, changes: dict[str, object], field: str) -> None:
    name = next(iter(mesh.federated.nodes("clinics"))).name
    stub = FederatedServiceStub(mesh.channel("federated"))
    with pytest.raises(MeshError) as caught:
        stub.GetJoinInstructions(pb.GetJoinInstructionsRequest(name=name, **changes))  # type: ignore[arg-type]
    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", field)


def test_pages_of_nodes_and_runs_end(mesh: Mesh) -> None:
    mesh.federated.create("many")
    for i in range(3):
        mesh.federated.register("many", f"n{i}", public_key())
    stub = FederatedServiceStub(mesh.channel("federated"))
    first = stub.ListNodes(pb.ListNodesRequest(parent="federations/many", page_size=2))
    rest = stub.ListNodes(pb.ListNodesRequest(parent="federations/many", page_size=2, page_token=first.next_page_token))
    names = [node.name.rpartition("/")[2] for node in (*first.nodes, *rest.nodes)]
    assert (names, rest.next_page_token) == (["n0", "n1", "n2"], "")
    assert mesh.federated.get("many").num_nodes == 3
    with pytest.raises(InvalidArgument) as caught:
        stub.ListRuns(pb.ListRunsRequest(parent="federations/many", page_token=first.next_page_token))
    assert caught.value.reason == "BAD_PAGE_TOKEN"
