"""`deepseek dataset` against a registry and an ingest service."""

import json
import unicodedata
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from deepseek.client import MeshFile, ServiceAddress
from tests.deepseek.cli.commands import assert_refused, deepseek
from tests.harness.images import image_file
from tests.services.ingest.client import NUMBERS, IngestClient, number
from tests.services.ingest.conftest import start_ingest


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "home"


@pytest.fixture
def client(home: Path) -> Iterator[IngestClient]:
    with ExitStack() as owned:
        mesh = start_ingest(home, owned)
        services = {"registry": mesh.registry.address, "ingest": mesh.ingest.address}
        MeshFile({name: ServiceAddress(address) for name, address in services.items()}).write(home / "mesh.json")
        yield mesh.client()


def test_an_upload_that_was_left_behind_is_listed_and_dropped(client: IngestClient, home: Path) -> None:
    upload = client.create("shapes", NUMBERS)
    client.send(upload, [number(0), number(1)])
    (found,) = json.loads(deepseek(home, "dataset", "uploads", "--json").stdout)
    assert (found["upload"], found["dataset"], found["num_samples"]) == (upload, "datasets/shapes", 2)
    assert upload in deepseek(home, "dataset", "uploads").stdout
    assert deepseek(home, "dataset", "drop-upload", upload).stdout == f"dropped {upload}\n"
    assert json.loads(deepseek(home, "dataset", "uploads", "--json").stdout) == []
    assert_refused(deepseek(home, "dataset", "drop-upload", "uploads/none"), "NOT_FOUND: UPLOAD_NOT_FOUND", "name")


def test_files_are_uploaded_by_the_names_that_they_have(client: IngestClient, home: Path, tmp_path: Path) -> None:
    images, questions = tmp_path / "images", tmp_path / "questions.txt"
    images.mkdir()
    names = ["Screenshot at 3.04\u202fPM.png", "cafe\u0301.png", "\U0001f469\u200d\U0001f52c.png", ".a .png"]
    for i, name in enumerate(names):
        (images / name).write_bytes(image_file(i, (8, 8)))
    rows = [f"{unicodedata.normalize('NFC', name)}\tis it?\tyes\r\n" for name in names]
    questions.write_bytes(("\ufeff" + "".join(rows)).encode())
    arguments = ["dataset", "upload", "shots", "--images", str(images), "--questions", str(questions), "--json"]
    version = json.loads(deepseek(home, *arguments).stdout)
    assert version["num_samples"] == len(names)
    read = deepseek(home, "dataset", "read", version["version"]).stdout.splitlines()
    assert [json.loads(line)["key"] for line in read] == [f"train/{name}" for name in names]
    (images / "gnp\u202e.png").write_bytes(image_file(9, (8, 8)))
    questions.write_text("".join([*rows, "gnp\u202e.png\tis it?\tyes\n"]), encoding="utf-8")
    refused = deepseek(home, *arguments)
    assert refused.returncode == 1
    assert "BAD_KEY" in refused.stderr
    assert json.loads(deepseek(home, "dataset", "uploads", "--json").stdout) == []
