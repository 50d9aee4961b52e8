"""Garbage collection of a mesh of real processes."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest

from common.errors import Unavailable
from deepseek.client import Mesh
from deepseek.embedded import EmbeddedMesh
from deepseek.services import SERVICES
from deepseek.upkeep.garbage import collect
from tests.e2e.conftest import ROOT
from tests.e2e.upkeep.mesh import TEXT, answer, audit_folder, blobs, leave_upload, running, stored, texts

pytestmark = [pytest.mark.e2e, pytest.mark.slow]


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


def test_what_nothing_needs_goes_and_all_else_stays(mesh: Mesh) -> None:
    (run,) = mesh.runs.list()
    events = list(mesh.runs.watch(run.name))
    stored_at = [event.checkpoint for event in events if event.HasField("checkpoint")]
    # The last epoch is the best one, so the last checkpoint supersedes all weights that were the best before it.
    assert [event.evaluation.is_best for event in events if event.HasField("evaluation")][-1]
    superseded = {one.artifact.sha256 for one in stored_at[:-1]}
    superseded |= {one.best_weights.sha256 for one in stored_at if one.HasField("best_weights")}
    garbage = mesh.store.put(mesh.tenant, b"garbage", "text/plain").sha256
    foreign = mesh.store.put("other", b"garbage", "text/plain").sha256
    before, answered = blobs(mesh), answer(mesh)
    gone = {garbage, *superseded}

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
    leave_upload(mesh, "cut", texts(1))
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
@pytest.mark.parametrize("service", SERVICES)
def test_nothing_is_deleted_while_a_service_is_away(mesh: Mesh, embedded: EmbeddedMesh, service: str) -> None:
    garbage = mesh.store.put(mesh.tenant, b"garbage", "text/plain").sha256
    os.kill(embedded.file.services[service].pid, signal.SIGKILL)
    try:
        with pytest.raises(Unavailable, match=service):
            collect(mesh, grace_s=0)
    finally:
        embedded.restart(service)

    assert mesh.store.exists(mesh.tenant, garbage)
