"""Backup and restore of meshes of real processes."""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from common.errors import DataLoss, FailedPrecondition, MeshError
from common.service import Uses
from deepseek.client import Mesh
from deepseek.embedded import EmbeddedMesh
from deepseek.services import SERVICES
from deepseek.upkeep.backup import back_up
from deepseek.upkeep.folder import BackupFolder
from deepseek.upkeep.garbage import collect
from deepseek.upkeep.restore import restore
from services.watermark.master_key import FILE_NAME
from tests.e2e.conftest import Home
from tests.e2e.upkeep.mesh import TEXT, answer, audit_folder, blobs, marked, running, stored, texts
from tests.harness.processes import wait_until
from tests.harness.servers import postgresql, seaweedfs

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


def is_served(mesh: Mesh) -> bool:
    try:
        return bool(mesh.inference.metadata("pictures"))
    except MeshError:
        return False


@pytest.fixture(scope="module")
def backup(mesh: Mesh, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("backups") / "first"
    contents = back_up(mesh, folder)
    assert contents.num_blobs > 3
    assert not contents.lost
    return folder


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Settings of services on an S3 server and PostgreSQL."""
    settings = {}
    with seaweedfs() as s3, postgresql() as url:
        for service in SERVICES:
            settings[f"DEEPSEEK_{service.upper()}_STATE_URL"] = url
            if Uses.STORE in SERVICES[service].uses:
                settings[f"DEEPSEEK_{service.upper()}_STORE_URL"] = s3.url
                settings[f"DEEPSEEK_{service.upper()}_STORE_ACCESS_KEY_FILE"] = str(s3.access_key_file)
                settings[f"DEEPSEEK_{service.upper()}_STORE_SECRET_KEY_FILE"] = str(s3.secret_key_file)
        yield settings


@pytest.mark.parametrize("where", ["embedded", "stack"])
def test_a_restored_mesh_answers_the_same(
    where: str, mesh: Mesh, embedded: EmbeddedMesh, backup: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    settings = dict(request.getfixturevalue("stack")) if where == "stack" else {}
    # The one thing that is in no backup.
    settings["DEEPSEEK_WATERMARK_MASTER_KEY_FILE"] = str(audit_folder(embedded).with_name(FILE_NAME))
    with running(tmp_path / "home", settings) as other, other.connect() as twin:
        contents, num_rows = restore(twin, backup)

        assert set(num_rows) == set(SERVICES)
        assert sum(len(list(twin.store.list(tenant))) for tenant in contents.blobs) == contents.num_blobs
        version = "models/pictures/versions/1"
        assert twin.models.version(version) == mesh.models.version(version)
        assert twin.models.lineage(version) == mesh.models.lineage(version)
        assert list(twin.models.aliases("pictures")) == list(mesh.models.aliases("pictures"))
        assert list(twin.datasets.list()) == list(mesh.datasets.list())
        assert list(twin.runs.list()) == list(mesh.runs.list())
        wait_until(lambda: is_served(twin), "the model to be served", timeout_s=60)
        np.testing.assert_array_equal(answer(twin), answer(mesh))
        assert marked(twin) == marked(mesh)
        # The restored mesh continues independently of the first.
        assert twin.datasets.upload("new", TEXT, texts(6)).num_samples == 1500
        with pytest.raises(FailedPrecondition) as caught:
            restore(twin, backup)
        assert caught.value.reason == "STATE_NOT_EMPTY"


def test_a_second_backup_copies_only_what_is_new(mesh: Mesh, backup: Path) -> None:
    store = BackupFolder(backup).blobs()
    before = {path: path.stat().st_ino for path in (backup / "blobs").rglob("*") if path.is_file()}
    mesh.datasets.upload("new", TEXT, texts(7))

    contents = back_up(mesh, backup)

    after = {path: path.stat().st_ino for path in (backup / "blobs").rglob("*") if path.is_file()}
    assert before.items() < after.items()
    assert contents.num_blobs == len(after) == len(list(store.list(mesh.tenant)))
    assert sorted(path.name for path in (backup / "state").iterdir()) == sorted(contents.states.values())


def test_a_backup_that_fails_leaves_the_one_before(mesh: Mesh, embedded: EmbeddedMesh, tmp_path: Path) -> None:
    folder = BackupFolder(tmp_path / "backup")
    with pytest.raises(FailedPrecondition) as missing:
        folder.contents()
    before = back_up(mesh, folder.path)
    version = mesh.datasets.upload("lost", TEXT, texts(8))
    lost = version.manifest.sha256
    path = stored(embedded, lost)
    path.rename(tmp_path / "hidden")
    try:
        with pytest.raises(FailedPrecondition) as caught:
            back_up(mesh, folder.path)
        assert folder.contents() == before
        with_gap = back_up(mesh, tmp_path / "with gap", incomplete=True)
    finally:
        (tmp_path / "hidden").rename(path)

    assert missing.value.reason == "BACKUP_NOT_FOUND"
    assert (caught.value.reason, lost in caught.value.message) == ("BLOBS_LOST", True)
    assert with_gap.lost == {mesh.tenant: [lost]}
    assert back_up(mesh, folder.path).num_blobs == with_gap.num_blobs + 3


@pytest.mark.parametrize("part", ["backup.json", "state/*", "blobs/*/sha256/*/*"])
@pytest.mark.parametrize("harm", ["changed", "missing", "cut off"])
def test_a_damaged_backup_changes_nothing(mesh: Mesh, fresh: Mesh, tmp_path: Path, part: str, harm: str) -> None:
    back_up(mesh, tmp_path / "backup")
    victim = sorted((tmp_path / "backup").glob(part))[0]
    content = victim.read_bytes()
    victim.unlink()
    if harm == "changed":
        victim.write_bytes(content[:-4] + bytes([content[-4] ^ 1]) + content[-3:])
    elif harm == "cut off":
        victim.write_bytes(content[: len(content) // 2])

    with pytest.raises(DataLoss if (part, harm) != ("backup.json", "missing") else FailedPrecondition) as caught:
        restore(fresh, tmp_path / "backup")

    assert caught.value.reason in ("BACKUP_DAMAGED", "BACKUP_NOT_FOUND")
    assert list(fresh.datasets.list()) == []
    assert blobs(fresh) == set()


@pytest.fixture(scope="module")
def empty_mesh(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[], Mesh]]:
    """Returns an empty mesh: the same one, unless a failed test has left something in it."""
    with ExitStack() as owned:
        meshes: list[Mesh] = []

        def empty() -> Mesh:
            if not meshes or blobs(meshes[-1]) or list(meshes[-1].datasets.list()):
                embedded = owned.enter_context(running(tmp_path_factory.mktemp("fresh") / "home"))
                meshes.append(owned.enter_context(embedded.connect()))
            return meshes[-1]

        yield empty


@pytest.fixture
def fresh(empty_mesh: Callable[[], Mesh]) -> Mesh:
    return empty_mesh()


def test_a_folder_with_other_things_is_left_alone(mesh: Mesh, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not lose this")
    with pytest.raises(FailedPrecondition) as caught:
        back_up(mesh, tmp_path)
    assert caught.value.reason == "NOT_A_BACKUP"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_the_commands_print_tables_and_json(mesh: Mesh, embedded: EmbeddedMesh, tmp_path: Path) -> None:
    home = Home(tmp_path / "home")
    home.path.mkdir()
    embedded.file.write(home.path / "mesh.json")
    collect(mesh, grace_s=0)

    shown = home.run("gc", "--dry-run")
    told = home.run("gc", "--grace", "7d", "--json")
    backed_up = home.run("backup", "folder", "--json")
    refused = home.run("restore", "folder")

    assert shown.returncode == told.returncode == backed_up.returncode == 0, told.stderr + backed_up.stderr
    assert "would be deleted" in shown.stdout
    document = json.loads(told.stdout.splitlines()[-1])
    assert document["tenants"][0]["removed"] == {"num_blobs": 0, "num_bytes": 0}
    assert json.loads(backed_up.stdout.splitlines()[-1])["services"] == sorted(SERVICES)
    assert refused.returncode == 1
    assert "STATE_NOT_EMPTY" in refused.stderr
