"""`deepseek watermark`: what it refuses before it asks a mesh, and what it says of marks that no registry knows; the
commands of docs/watermark.md show the rest."""

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from deepseek.client import MeshFile, ServiceAddress
from tests.deepseek.cli.test_cli import deepseek
from tests.services.processes import ServiceProcess
from tests.services.watermark.pictures import PNG


def test_text_is_not_marked_afterwards(tmp_path: Path) -> None:
    (tmp_path / "story.txt").write_text("once", encoding="utf-8")
    done = deepseek(tmp_path, "watermark", "mark", str(tmp_path / "story.txt"))
    assert done.returncode == 1
    assert "use `deepseek watermark write`" in done.stderr
    assert "UNSUPPORTED_FILE" in done.stderr


@pytest.mark.parametrize(("name", "options"), [("story.txt", ()), ("photo.png", ("--model", "reference"))])
def test_a_model_is_asked_for_where_there_is_text_and_nowhere_else(
    tmp_path: Path, name: str, options: tuple[str, ...]
) -> None:
    (tmp_path / name).write_bytes(b"")
    done = deepseek(tmp_path, "watermark", "detect", str(tmp_path / name), *options)
    assert done.returncode == 1
    assert "give --model for text" in done.stderr


def test_a_key_is_revoked_only_by_those_who_say_yes(tmp_path: Path) -> None:
    done = deepseek(tmp_path, "watermark", "revoke", "image", "0")
    assert done.returncode == 1
    assert "never be found again" in done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Home of a registry and a watermark service."""
    home = tmp_path_factory.mktemp("mesh")
    registry = ServiceProcess("registry", home)
    try:
        registry.start()
        watermark = ServiceProcess("watermark", home, settings={"registry": registry.address})
        try:
            watermark.start()
            services = {process.name: ServiceAddress(process.address, process.pid) for process in (registry, watermark)}
            MeshFile(services).write(home / "mesh.json")
            yield home
        finally:
            watermark.close()
    finally:
        registry.close()


def answered(home: Path, *arguments: str) -> dict[str, Any]:
    done = deepseek(home, "watermark", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def marked(home: Path) -> tuple[str, str]:
    """A marked file, and its mark."""
    (home / "photo.png").write_bytes(PNG)
    answer = answered(home, "mark", str(home / "photo.png"))
    return answer["file"], answer["watermark"]


def change(home: Path, statement: str, watermark: str) -> None:
    """Makes the registry know otherwise of a mark."""
    with sqlite3.connect(home / "state" / "registry.db") as database:
        done = database.execute(f"{statement} WHERE watermark_id = ?", [watermark.removeprefix("watermarks/")])
        assert done.rowcount == 1
    database.close()


def test_a_mark_that_is_registered_tells_what_is_known_of_it(home: Path) -> None:
    file, watermark = marked(home)
    found = answered(home, "detect", file)
    assert (found["verdict"], found["watermark"], found["registered"]) == ("marked", watermark, True)
    assert len(found["content_sha256"]) == 64
    assert "not in the registry" not in deepseek(home, "watermark", "detect", file).stdout
    unmarked = answered(home, "detect", str(home / "photo.png"))
    assert (unmarked["verdict"], "registered" in unmarked) == ("not marked", False)


@pytest.mark.parametrize(
    "otherwise",
    ["DELETE FROM watermarks", "UPDATE watermarks SET modality = 'text'", "UPDATE watermarks SET key_epoch = 7"],
    ids=["unknown", "modality", "epoch"],
)
def test_a_mark_that_the_registry_does_not_know_so_is_called_forged(home: Path, otherwise: str) -> None:
    file, watermark = marked(home)
    change(home, otherwise, watermark)
    found = answered(home, "detect", file)
    assert (found["verdict"], found["watermark"], found["registered"]) == ("marked", watermark, False)
    assert "content_sha256" not in found
    done = deepseek(home, "watermark", "detect", file)
    assert done.returncode == 0
    assert "not in the registry: forged, or of another mesh" in done.stdout


def test_a_key_is_revoked_without_a_question_on_yes(home: Path) -> None:
    file, _ = marked(home)
    epoch = answered(home, "rotate", "image")["epoch"] - 1
    assert answered(home, "revoke", "image", str(epoch), "--yes")["state"] == "revoked"
    assert [key["state"] for key in answered(home, "keys", "image")["keys"]] == ["active", "revoked"]
    found = answered(home, "detect", file)
    assert (found["verdict"], found["p"]) == ("inconclusive", 1)
    done = deepseek(home, "watermark", "revoke", "image", str(epoch), "--yes")
    assert (done.returncode, done.stdout) == (0, f"image epoch {epoch} is revoked\n")
