"""A coordinator is killed in the middle of a round; its nodes are stock SuperNodes, and the result is the same."""

import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deepseek.client import Mesh
from deepseek.federated.flower.node_keys import create_key
from deepseek.federated.flower.superlink import SuperLinkAddress
from deepseek.federated.flower.supernode import Node, NodeConfig
from protos.federated.v1 import federated_pb2 as pb
from protos.job.v1 import job_pb2
from tests.harness.mesh import MeshProcesses
from tests.harness.processes import wait_until
from tests.services.federated.examples import run_spec
from tests.services.trainer.tasks import PICTURE_FIELDS, add_dataset, pictures

pytestmark = pytest.mark.slow


@pytest.fixture
def mesh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MeshProcesses]:
    """A mesh with the data set `pictures`."""
    monkeypatch.setenv("DEEPSEEK_HOME", str(tmp_path / "home"))
    with ExitStack() as owned:
        made = MeshProcesses(tmp_path / "home", owned)
        made.start("federated")
        made.start("ingest")
        made.file.write(tmp_path / "home" / "mesh.json")
        add_dataset(made.registry.channel(), tmp_path / "home" / "store", "pictures", PICTURE_FIELDS, pictures())
        yield made


@pytest.fixture
def nodes(mesh: MeshProcesses, tmp_path: Path) -> Iterator[list[Node]]:
    """Two nodes of the federation `clinics`."""
    with ExitStack() as owned, Mesh(mesh.file) as client:
        client.federated.create("clinics")
        made = []
        for name in ("north", "south"):
            key = create_key(tmp_path / f"{name}.key")
            client.federated.register("clinics", name, key.text)
            found = client.federated.join_instructions(f"clinics/{name}")
            root = tmp_path / "superlink.pem"
            root.write_text(found.root_certificate, encoding="ascii")
            superlink = SuperLinkAddress(found.superlink_address, root)
            config = NodeConfig(superlink, tmp_path / f"{name}.key", tmp_path / name, "mesh:pictures:1")
            made.append(Node(config))
            owned.callback(made[-1].stop)
        yield made


def test_a_killed_coordinator_continues_and_the_model_is_bit_equal(mesh: MeshProcesses, nodes: list[Node]) -> None:
    spec = run_spec("datasets/pictures/versions/1", num_rounds=3, deadline_s=300)
    with Mesh(mesh.file) as client:
        wait_until(
            lambda: all(node.online for node in client.federated.nodes("clinics")), "nodes to connect", timeout_s=120
        )
        undisturbed = client.federated.wait(client.federated.start("clinics", spec).name)
        killed = client.federated.start("clinics", spec)
        asking = threading.Event()
        for event in client.federated.watch(killed.name, patience_s=120):
            is_second = event.HasField("round") and event.round.round.round == 2
            if is_second and event.round.round.state == pb.ROUND_STATE_PLANNED and not asking.is_set():
                asking.set()
                mesh.services["federated"].kill()
                mesh.services["federated"].start()
        again = client.federated.run(killed.name)
        assert again.job.state == job_pb2.JOB_STATE_SUCCEEDED, again.job
        assert again.job.attempt == 2
        events = [event.round.round for event in client.federated.history(killed.name) if event.HasField("round")]
        assert [one.round for one in events if one.state == pb.ROUND_STATE_RELEASED] == [1, 2, 3]
        assert {one.attempt for one in events} == {1}
        digests = [client.federated.model(run.name).arrays.sha256 for run in (undisturbed, again)]
        assert digests[0] == digests[1]
    assert [node.poll() for node in nodes] == [None, None]
