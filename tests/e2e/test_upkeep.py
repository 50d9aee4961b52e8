"""Garbage collection, backup and restore of meshes of real processes."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import pytest
from numpy.typing import NDArray

from common.errors import DataLoss, FailedPrecondition, MeshError, Unavailable
from deepseek.client import Mesh
from deepseek.data.manifest import Field
from deepseek.data.sample import Sample
from deepseek.embedded import PORTS, EmbeddedMesh, start_mesh
from deepseek.models.inputs import encode_inputs
from deepseek.upkeep.backup import back_up
from deepseek.upkeep.folder import BackupFolder
from deepseek.upkeep.garbage import collect
from deepseek.upkeep.restore import restore
from protos.watermark.v1 import watermark_pb2
from protos.watermark.v1.watermark_pb2_grpc import WatermarkServiceStub
from services.watermark.master_key import FILE_NAME
from tests.deepseek.data.samples import image_file
from tests.e2e.conftest import ROOT, Home
from tests.e2e.small_job import SPEC
from tests.processes import wait_until
from tests.servers import postgresql, seaweedfs
from tests.services.watermark.pictures import PNG

pytestmark = [pytest.mark.e2e, pytest.mark.slow]

TEXT = (Field("text", "text", repeated=False, labels=()),)
PICTURES = (
    Field("image", "image", repeated=False, labels=()),
    Field("question", "text", repeated=True, labels=()),
    Field("answer", "label", repeated=True, labels=("no", "yes")),
)


@contextmanager
def running(home: Path, environment: dict[str, str] | None = None) -> Iterator[EmbeddedMesh]:
    with pytest.MonkeyPatch.context() as patch:
        for name, value in (environment or {}).items():
            patch.setenv(name, value)
        embedded = start_mesh(home, stay=False, free_ports=True)
        try:
            yield embedded
        finally:
            embedded.stop()


def texts(number: int) -> list[Sample]:
    return [Sample(f"k{i}", "train", {"text": f"{number} {i}"}) for i in range(1500)]


def answer(mesh: Mesh) -> NDArray[np.generic]:
    """What the served model makes of a picture."""
    manifest = mesh.models.manifest(mesh.models.version("models/pictures/versions/1"))
    scores = mesh.inference.infer("pictures", encode_inputs(manifest, {"image": image_file(0), "question": "is it?"}))
    return np.asarray(scores[manifest.outputs[0].name])


def blobs(mesh: Mesh) -> set[str]:
    return set(mesh.store.list(mesh.tenant))


def stored(embedded: EmbeddedMesh, sha256: str) -> Path:
    """The file of a blob in an embedded mesh's store."""
    assert embedded.file.store is not None
    return Path(urlsplit(embedded.file.store.url).path) / "default" / "sha256" / sha256[:2] / sha256


def audit_folder(embedded: EmbeddedMesh) -> Path:
    """Where an embedded mesh keeps what its services did."""
    assert embedded.file.store is not None
    return Path(urlsplit(embedded.file.store.url).path).parent / "audit"


def collections(embedded: EmbeddedMesh) -> list[dict[str, Any]]:
    """What the audit log of the registry tells of collections."""
    lines = (audit_folder(embedded) / "registry.jsonl").read_text(encoding="utf-8").splitlines()
    return [record for record in map(json.loads, lines) if record["what"].endswith("Collection")]


def listed(embedded: EmbeddedMesh, record: dict[str, Any]) -> set[str]:
    """The digests that the record of a collection lists."""
    _, tenant, *_, sha256, _, _, _, _ = record["object"].split("/")
    path = audit_folder(embedded) / "collections" / tenant / "sha256" / sha256[:2] / sha256
    return set(path.read_text(encoding="ascii").split())


def put_garbage(mesh: Mesh, *, tenant: str = "default", number: int = 3) -> set[str]:
    return {
        mesh.store.put(tenant, f"garbage {i} {os.urandom(8)!r}".encode(), "text/plain").sha256 for i in range(number)
    }


def marked(mesh: Mesh) -> watermark_pb2.MarkImageResponse:
    """A picture with a mark, of one and the same call."""
    request = watermark_pb2.MarkImageRequest(image=PNG, request_id="first")
    answer: watermark_pb2.MarkImageResponse = WatermarkServiceStub(mesh.channel("watermark")).MarkImage(request)
    return answer


def is_served(mesh: Mesh) -> bool:
    try:
        return bool(mesh.inference.metadata("pictures"))
    except MeshError:
        return False


@pytest.fixture(scope="module")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedMesh]:
    with running(tmp_path_factory.mktemp("source") / "home") as embedded:
        yield embedded


@pytest.fixture(scope="module")
def mesh(embedded: EmbeddedMesh) -> Iterator[Mesh]:
    """A mesh with a served model, a run with superseded checkpoints, and an upload that was left in the middle."""
    with embedded.connect() as mesh:
        samples = [
            Sample(str(i), "train", {"image": image_file(i), "question": ["is it?", "why?"], "answer": ["yes", "no"]})
            for i in range(8)
        ]
        version = mesh.datasets.upload("pictures", PICTURES, samples)
        run, _ = mesh.runs.submit({**SPEC, "epochs": 3, "dataset_version": version.name})
        mesh.runs.wait(run.name)
        mesh.runs.export(run.name, "pictures")
        mesh.models.set_alias("pictures", "production", "models/pictures/versions/1")
        mesh.inference.load("pictures")
        marked(mesh)
        with pytest.raises(MeshError):
            mesh.datasets.upload("unfinished", TEXT, [*texts(0), Sample("bad", "train", {"text": 1})])
        yield mesh


def test_what_nothing_needs_goes_and_all_else_stays(mesh: Mesh) -> None:
    checkpoints = [
        event.checkpoint.artifact.sha256
        for run in mesh.runs.list()
        for event in mesh.runs.watch(run.name)
        if event.HasField("checkpoint")
    ]
    garbage = mesh.store.put(mesh.tenant, b"garbage", "text/plain").sha256
    foreign = mesh.store.put("other", b"garbage", "text/plain").sha256
    before, answered = blobs(mesh), answer(mesh)
    gone = {garbage, *checkpoints[:-1]}

    young = collect(mesh, grace_s=3600)
    assert blobs(mesh) == before
    assert {one.tenant: one.removed.num_blobs for one in young.tenants} == {"default": 0, "other": 0}

    rehearsed = collect(mesh, grace_s=0, dry_run=True)
    assert blobs(mesh) == before
    collected = collect(mesh, grace_s=0)

    assert rehearsed == collected
    assert blobs(mesh) == before - gone
    assert not mesh.store.exists("other", foreign)
    default, other = collected.tenants
    assert (default.removed.num_blobs, default.young.num_blobs) == (len(gone), 0)
    assert default.reachable.num_blobs == len(before) - len(gone)
    assert (other.tenant, other.removed.num_blobs, other.removed.num_bytes) == ("other", 1, 7)
    try:
        mesh.inference.unload("pictures")
    finally:
        mesh.inference.load("pictures")
    np.testing.assert_array_equal(answer(mesh), answered)
    assert len(list(mesh.datasets.read("datasets/pictures/versions/1"))) == 8


def test_a_collection_is_on_record_and_a_rehearsed_one_is_not(mesh: Mesh, embedded: EmbeddedMesh) -> None:
    collect(mesh, grace_s=0)
    garbage, foreign = put_garbage(mesh), put_garbage(mesh, tenant="other", number=1)
    before = collections(embedded)
    collect(mesh, grace_s=0, dry_run=True)
    collect(mesh, grace_s=3600)
    assert collections(embedded) == before

    collected = collect(mesh, grace_s=0)

    records = collections(embedded)[len(before) :]
    assert [record["what"].rpartition("/")[2] for record in records] == ["BeginCollection", "EndCollection"] * 2
    assert [listed(embedded, record) for record in records] == [garbage, garbage, foreign, foreign]
    for record, one in zip(records[1::2], collected.tenants, strict=True):
        assert record["object"].startswith(f"tenants/{one.tenant}/collections/")
        assert record["object"].endswith(f"/blobs/{one.removed.num_blobs}/bytes/{one.removed.num_bytes}")
        assert (record["who"]["tenant"], record["outcome"]["code"]) == ("default", "OK")
        assert record["who"]["subject"]


@pytest.mark.faults
def test_a_collection_that_is_killed_leaves_its_announcement(
    mesh: Mesh, embedded: EmbeddedMesh, tmp_path: Path
) -> None:
    collect(mesh, grace_s=0)
    garbage = put_garbage(mesh)
    embedded.file.write(tmp_path / "mesh.json")
    command = [sys.executable, "-m", "tests.e2e.collector", str(tmp_path / "mesh.json")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as collector:
        assert collector.stdout is not None
        try:
            told = collector.stdout.readline()
        finally:
            collector.kill()

    assert told == "1 3\n"
    left = garbage & blobs(mesh)
    assert len(left) == 2
    announcement = collections(embedded)[-1]
    assert announcement["what"].endswith("/BeginCollection")
    assert listed(embedded, announcement) == garbage
    # The next one announces the rest, and says when it has gone.
    collect(mesh, grace_s=0)
    assert [listed(embedded, record) for record in collections(embedded)[-2:]] == [left, left]
    assert not garbage & blobs(mesh)


@pytest.mark.faults
def test_what_has_gone_before_the_store_fails_is_told(
    mesh: Mesh, embedded: EmbeddedMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    collect(mesh, grace_s=0)
    garbage = put_garbage(mesh)
    expire = mesh.store.expire

    def expire_one(tenant: str, sha256: str, before_us: int) -> bool:
        if garbage - blobs(mesh):
            raise Unavailable("STORE_UNREACHABLE", "gone away")
        return expire(tenant, sha256, before_us)

    with monkeypatch.context() as patch:
        patch.setattr(mesh.store, "expire", expire_one)
        with pytest.raises(Unavailable, match="gone away"):
            collect(mesh, grace_s=0)

    assert [listed(embedded, record) for record in collections(embedded)[-2:]] == [garbage, garbage - blobs(mesh)]


@pytest.mark.faults
def test_a_registry_that_dies_in_the_middle_has_the_announcement(mesh: Mesh, embedded: EmbeddedMesh) -> None:
    garbage = put_garbage(mesh)

    def kill(done: int, total: int) -> None:
        if done == 1:
            os.kill(embedded.file.services["registry"].pid, signal.SIGKILL)

    try:
        with pytest.raises(Unavailable, match="registry"):
            collect(mesh, grace_s=0, on_blob=kill)
    finally:
        embedded.restart("registry")

    announcement = collections(embedded)[-1]
    assert announcement["what"].endswith("/BeginCollection")
    assert garbage <= listed(embedded, announcement)


@pytest.mark.faults
def test_what_cannot_be_recorded_is_not_deleted(mesh: Mesh, embedded: EmbeddedMesh) -> None:
    (garbage,) = put_garbage(mesh, tenant="stuck", number=1)
    obstacle = audit_folder(embedded) / "collections" / "stuck"
    obstacle.write_text("in the way of its lists")
    try:
        with pytest.raises(Unavailable, match="registry"):
            collect(mesh, grace_s=0)
    finally:
        obstacle.unlink()
    assert mesh.store.exists("stuck", garbage)
    collect(mesh, grace_s=0)
    assert not mesh.store.exists("stuck", garbage)


def test_what_an_open_upload_has_stored_stays(mesh: Mesh) -> None:
    before = blobs(mesh)
    with pytest.raises(MeshError):
        mesh.datasets.upload("cut", TEXT, [*texts(1), Sample("bad", "train", {"text": 1})])
    (shard,) = blobs(mesh) - before

    collect(mesh, grace_s=0)

    assert mesh.store.exists(mesh.tenant, shard)


@pytest.mark.faults
def test_content_that_is_put_again_beside_a_collection_stays(
    mesh: Mesh, embedded: EmbeddedMesh, tmp_path: Path
) -> None:
    with running(tmp_path / "home") as other, other.connect() as twin:
        for number in range(2, 6):
            twin.datasets.upload("again", TEXT, texts(number))
        for sha256 in blobs(twin):
            twin.store.copy(twin.tenant, sha256, mesh.store)
            os.utime(stored(embedded, sha256), (0, 0))
    done = Event()

    def collect_all_the_time() -> int:
        removed = 0
        while not done.is_set():
            removed += sum(one.removed.num_blobs for one in collect(mesh, grace_s=3600).tenants)
        return removed

    with ThreadPoolExecutor(1) as pool:
        collecting = pool.submit(collect_all_the_time)
        try:
            versions = [mesh.datasets.upload("again", TEXT, texts(number)) for number in range(2, 6)]
        finally:
            done.set()
        collecting.result()

    for version in versions:
        assert sum(1 for _ in mesh.datasets.read(version.name)) == 1500


@pytest.mark.faults
@pytest.mark.parametrize("service", PORTS)
def test_nothing_is_deleted_while_a_service_is_away(mesh: Mesh, embedded: EmbeddedMesh, service: str) -> None:
    garbage = mesh.store.put(mesh.tenant, b"garbage", "text/plain").sha256
    os.kill(embedded.file.services[service].pid, signal.SIGKILL)
    try:
        with pytest.raises(Unavailable, match=service):
            collect(mesh, grace_s=0)
    finally:
        embedded.restart(service)

    assert mesh.store.exists(mesh.tenant, garbage)


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
        for service in PORTS:
            settings[f"DEEPSEEK_{service.upper()}_STATE_URL"] = url
            if service not in ("registry", "watermark"):
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

        assert set(num_rows) == set(PORTS)
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
        # It goes on as a mesh of its own.
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
    assert "would go" in shown.stdout
    document = json.loads(told.stdout.splitlines()[-1])
    assert document["tenants"][0]["removed"] == {"num_blobs": 0, "num_bytes": 0}
    assert json.loads(backed_up.stdout.splitlines()[-1])["services"] == sorted(PORTS)
    assert refused.returncode == 1
    assert "STATE_NOT_EMPTY" in refused.stderr
