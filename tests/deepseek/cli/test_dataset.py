"""`deepseek dataset` against a registry and an ingest service."""

import json
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deepseek.client import MeshFile, ServiceAddress
from tests.deepseek.cli.test_cli import assert_refused, deepseek
from tests.services.ingest.client import NUMBERS, Client, number
from tests.services.ingest.conftest import start_mesh


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def client(home: Path) -> Iterator[Client]:
    with ExitStack() as owned:
        mesh = start_mesh(home, owned)
        services = {"registry": mesh.registry.address, "ingest": mesh.ingest.address}
        MeshFile({name: ServiceAddress(address) for name, address in services.items()}).write(home / "mesh.json")
        yield mesh.client()


def test_an_upload_that_was_left_behind_is_listed_and_dropped(client: Client, home: Path) -> None:
    upload = client.create("shapes", NUMBERS)
    client.send(upload, [number(0), number(1)])
    (found,) = json.loads(deepseek(home, "dataset", "uploads", "--json").stdout)
    assert (found["upload"], found["dataset"], found["num_samples"]) == (upload, "datasets/shapes", 2)
    assert upload in deepseek(home, "dataset", "uploads").stdout
    assert deepseek(home, "dataset", "drop-upload", upload).stdout == f"dropped {upload}\n"
    assert json.loads(deepseek(home, "dataset", "uploads", "--json").stdout) == []
    assert_refused(deepseek(home, "dataset", "drop-upload", "uploads/none"), "NOT_FOUND: UPLOAD_NOT_FOUND", "name")
