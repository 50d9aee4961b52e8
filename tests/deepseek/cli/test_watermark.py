"""`deepseek watermark`: what it refuses before it asks a mesh, and what it says of marks that no registry knows; the
commands of docs/watermark.md show the rest."""

import hashlib
import io
import json
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.errors import FailedPrecondition
from deepseek.cli.statuses import INCONCLUSIVE, NOT_MARKED
from deepseek.client import MeshFile, ServiceAddress, connect
from tests.deepseek.cli.commands import assert_refused, deepseek
from tests.harness.images import PNG
from tests.harness.mesh import MeshProcesses
from tests.services.watermark.conftest import write_master_key


def gif() -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (200, 200)).save(file, "GIF")
    return file.getvalue()


@pytest.mark.parametrize(
    ("command", "content", "options", "reason", "message"),
    [
        ("mark", b"once", (), "UNSUPPORTED_FILE", "use `deepseek watermark write`"),
        ("mark", gif(), (), "UNSUPPORTED_IMAGE", "neither PNG, JPEG nor WebP; convert it"),
        ("mark", PNG[:-200], (), "DAMAGED_IMAGE", "cannot be decoded"),
        ("detect", b"once", (), "BAD_VALUE", "name the model that may have written the text"),
        ("detect", b"", (), "BAD_VALUE", "name the model that may have written the text"),
        ("detect", "einmal für alle".encode("latin-1"), ("--model", "reference"), "BAD_VALUE", "is not UTF-8 text"),
        ("detect", PNG, ("--model", "reference"), "BAD_VALUE", "is not UTF-8 text; omit --model"),
    ],
    ids=["text", "another format", "damaged", "no model", "nothing", "another encoding", "a model for an image"],
)
def test_what_a_file_is_follows_from_its_content(
    tmp_path: Path, command: str, content: bytes, options: tuple[str, ...], reason: str, message: str
) -> None:
    (tmp_path / "file.png").write_bytes(content)
    done = deepseek(tmp_path, "watermark", command, str(tmp_path / "file.png"), *options)
    assert done.returncode == 1
    assert reason in done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_key_is_revoked_only_by_those_who_say_yes(tmp_path: Path) -> None:
    done = deepseek(tmp_path, "watermark", "revoke", "image", "0")
    assert done.returncode == 1
    assert "never be detected again" in done.stderr


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Home of a registry and a watermark service."""
    home = tmp_path_factory.mktemp("mesh")
    write_master_key(home)
    with ExitStack() as resources:
        mesh = MeshProcesses(home, resources)
        mesh.start("watermark")
        services = {name: ServiceAddress(process.address, process.pid) for name, process in mesh.services.items()}
        MeshFile(services).write(home / "mesh.json")
        yield home


def answered(home: Path, *arguments: str, status: int = 0) -> dict[str, Any]:
    done = deepseek(home, "watermark", *arguments, "--json")
    assert done.returncode == status, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def marked(home: Path) -> tuple[str, str]:
    """A marked file, and its mark."""
    (home / "photo.png").write_bytes(PNG)
    answer = answered(home, "mark", str(home / "photo.png"), "--force")
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
    unmarked = answered(home, "detect", str(home / "photo.png"), status=NOT_MARKED)
    assert (unmarked["verdict"], "registered" in unmarked) == ("not marked", False)


def test_a_marked_file_is_replaced_only_with_force(home: Path) -> None:
    file, _ = marked(home)
    before = Path(file).read_bytes()
    done = deepseek(home, "watermark", "mark", str(home / "photo.png"))
    assert_refused(done, "FAILED_PRECONDITION: OUTPUT_EXISTS", "--output")
    assert "--force" in done.stderr
    assert Path(file).read_bytes() == before


def test_a_second_mark_is_made_with_a_warning(home: Path) -> None:
    file, watermark = marked(home)
    deepseek(home, "watermark", "rotate", "image")  # a mark of the same key often hides a second one
    done = deepseek(home, "watermark", "mark", file, "--force", "--json")
    assert json.loads(done.stdout)["earlier_watermark"] == watermark
    assert f"already carries {watermark}" in done.stderr
    assert "already" not in deepseek(home, "watermark", "mark", str(home / "photo.png"), "--force").stderr


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
    assert "not in the registry: forged, or from another mesh" in done.stdout


def test_an_image_may_have_any_name(home: Path) -> None:
    (home / "photo.data").write_bytes(PNG)
    assert answered(home, "detect", str(home / "photo.data"), status=NOT_MARKED)["verdict"] == "not marked"
    (home / "still.gif").write_bytes(gif())
    done = deepseek(home, "watermark", "detect", str(home / "still.gif"))
    assert done.returncode == 1
    assert "neither PNG, JPEG nor WebP; convert it" in done.stderr


def test_the_registry_is_told_of_a_text_once_it_is_whole(home: Path) -> None:
    with connect(home / "mesh.json") as mesh:
        with mesh.watermarks.drawing() as stream:
            tokens = [stream.draw(np.zeros(50, np.float32)) for _ in range(3)]
        assert mesh.watermarks.get(stream.watermark).content_sha256 == ""
        text = str(tokens).encode()
        told = mesh.watermarks.set_content(stream.watermark, text)
        assert told.content_sha256 == hashlib.sha256(text).hexdigest()
        assert told.content_size_bytes == len(text)
        with pytest.raises(FailedPrecondition, match="content") as caught:
            mesh.watermarks.set_content(stream.watermark, b"another")
    assert caught.value.reason == "CONTENT_SET"


def test_a_key_is_revoked_without_a_question_on_yes(home: Path) -> None:
    file, _ = marked(home)
    epoch = answered(home, "rotate", "image")["epoch"] - 1
    assert answered(home, "revoke", "image", str(epoch), "--yes")["state"] == "revoked"
    assert [key["state"] for key in answered(home, "keys", "image")["keys"]][:2] == ["active", "revoked"]
    found = answered(home, "detect", file, status=INCONCLUSIVE)
    assert (found["verdict"], found["p"]) == ("inconclusive", 1)
    done = deepseek(home, "watermark", "revoke", "image", str(epoch), "--yes")
    assert (done.returncode, done.stdout) == (0, f"image epoch {epoch} is revoked\n")
