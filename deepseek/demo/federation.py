"""The federated demo: nodes with different shares of the images train a common model, without and with privacy.

Each node is a stock `flower-supernode` process on this machine that reads its own folder. The coordinator has a few
images of its own, which no node has. It trains a first model on them, from which both runs start: with little data, the
noise hides most of what the data contributes, so privacy costs the least accuracy if training only improves a trained
model (Tramer & Boneh 2021, arXiv:2011.11660).
"""

import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.errors import FailedPrecondition
from deepseek.client import Mesh
from deepseek.demo import colours
from deepseek.federated.flower.node_keys import create_key
from deepseek.federated.flower.superlink import SuperLinkAddress
from deepseek.federated.flower.supernode import Node, NodeConfig
from deepseek.interchange.importing import Import
from deepseek.interchange.opening import open_source
from protos.privacy.v1 import privacy_pb2

NUM_NODES = 4
NUM_ROUNDS = 10
EPSILON, DELTA = 8.0, 1e-5
MODEL = "demo-colours"
DATASET = "demo-colours"
_EXAMPLE_RATE = 0.25
_ONLINE_S = 120.0

_MODEL: dict[str, Any] = {
    "model": {"name": "cnn", "params": {"width": 16, "dropout": 0.0, "norm": "group"}},
    "metrics": [{"name": "accuracy"}],
    "inputs": [{"field": "image", "encoder": {"name": "image", "params": {"size": 16}}}],
    "target": {"field": "label"},
    "precision": "PRECISION_FP32",
}
_PLAIN = {"optimizer": {"name": "sgd", "params": {"lr": 0.1}}, "batch_size": 16}
_PRIVATE = {"optimizer": {"name": "sgd", "params": {"lr": 0.5, "momentum": 0.9}}, "batch_size": 180}
_START = {**_PLAIN, "epochs": 30, "eval_split": "none"}  # figures on the test images must not select an epoch


def import_reference(mesh: Mesh, folder: Path) -> str:
    """Imports the coordinator's images, and returns the name of the version."""
    found = Import(open_source(str(folder)))
    return found.upload(mesh.datasets, DATASET).name


def train_start(mesh: Mesh, version: str) -> str:
    """Trains the first model on the coordinator's images, and returns the name of its version."""
    run, _ = mesh.runs.submit({**_MODEL, **_START, "dataset_version": version})
    trained = mesh.runs.wait(run.name)
    return mesh.runs.export(trained.name, f"{MODEL}-start").name


def accuracy_of(mesh: Mesh, version: str) -> float:
    """Returns the accuracy of a model version on the coordinator's test images, as a fraction."""
    from deepseek.client import evaluating  # imports NumPy

    return evaluating.evaluate(mesh, version, split="test").metrics["accuracy"]


@contextmanager
def joined(
    mesh: Mesh,
    federation: str,
    shares: Sequence[Path],
    folder: Path,
    *,
    preload: bool = True,
    worker: str = NodeConfig.worker,
) -> Iterator[list[Node]]:
    """Registers and starts a node for each share of the data, and yields the nodes once all are online.

    Args:
        mesh: Client of the mesh.
        federation: Name of the federation.
        shares: Data of each node.
        folder: Folder for keys and files of the nodes.
        preload: See `NodeConfig`.
        worker: See `NodeConfig`.

    Raises:
        FailedPrecondition: NODE_ENDED if a node does not come online.
    """
    nodes: list[Node] = []
    try:
        for share in shares:
            work, key = folder / f"{share.name}-work", folder / f"{share.name}.key"
            public_key = create_key(key)
            name = mesh.federated.register(federation, share.name, public_key.text).name
            answer = mesh.federated.join_instructions(name)
            root = folder / "superlink.pem"
            root.write_text(answer.root_certificate, encoding="ascii")
            address = SuperLinkAddress(answer.superlink_address, root if answer.root_certificate else None)
            data = str(share)
            nodes.append(Node(NodeConfig(address, key, work, data, worker=worker, preload=preload)))
        deadline = time.monotonic() + _ONLINE_S
        while not all(node.online for node in mesh.federated.nodes(federation)):
            ended = [node for node in nodes if node.poll() is not None]
            if ended or time.monotonic() > deadline:
                log = (ended or nodes)[0].log_file
                raise FailedPrecondition("NODE_ENDED", f"a node did not come online; see {log}")
            time.sleep(0.5)
        yield nodes
    finally:
        for node in nodes:
            node.stop()


def spec(version: str, start: str, *, budget: str = "") -> dict[str, Any]:
    """Returns the spec of a run.

    Args:
        version: Reference data.
        start: Model version from which the run starts.
        budget: Budget to debit; empty for a run without privacy.
    """
    model = {**_MODEL, **(_PRIVATE if budget else _PLAIN), "dataset_version": version, "init": start}
    settings: dict[str, Any] = {
        "model": model,
        "num_rounds": NUM_ROUNDS,
        "local_epochs": 1 if budget else 3,
        "register_every": NUM_ROUNDS,
        "quorum": NUM_NODES,
        "deadline_s": 120.0,
        "target_model": f"{MODEL}-private" if budget else MODEL,
    }
    if budget:
        settings["privacy"] = {
            "unit": "UNIT_EXAMPLE",
            "clip_norm": 1.0,
            "target_epsilon": EPSILON,
            "delta": DELTA,
            "budget": budget,
            "example_rate": _EXAMPLE_RATE,
        }
    return settings


def create(mesh: Mesh) -> str:
    """Creates a federation, and returns its name, which is new for each demo: a spent budget cannot be reset."""
    return mesh.federated.create(f"demo-{uuid.uuid4().hex[:8]}", description="deepseek federated demo").name


def create_budget(mesh: Mesh, federation: str) -> str:
    """Creates the budget of a federation, after which it accepts only private runs, and returns its name."""
    unit, name = privacy_pb2.UNIT_EXAMPLE, federation.rpartition("/")[2]
    return mesh.budgets.create(name, dataset=federation, unit=unit, epsilon=EPSILON, delta=DELTA).name


@contextmanager
def data() -> Iterator[tuple[Path, Path, Sequence[Path]]]:
    """Writes the images into a temporary folder; yields it, the coordinator's folder, and the folder of each node."""
    with tempfile.TemporaryDirectory(prefix="deepseek-federation-") as folder:
        own, shares = colours.write(Path(folder, "data"), NUM_NODES)
        yield Path(folder), own, shares
