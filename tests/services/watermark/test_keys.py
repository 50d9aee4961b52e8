"""KeyStore over a real server, and against their table."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import services.watermark
from common.auth import Role
from common.database import Database, Repeatable
from common.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
)
from protos.watermark.v1 import watermark_pb2 as pb
from protos.watermark.v1.watermark_pb2_grpc import WatermarkServiceStub
from services.watermark import tables
from services.watermark.keys import MAX_KEYS, KeyState, KeyStore, MarkingKey, has_keys
from tests.harness.migrations import differences
from tests.services.watermark.conftest import WatermarkMesh

IMAGE, TEXT = pb.MODALITY_IMAGE, pb.MODALITY_TEXT
MIGRATIONS = Path(services.watermark.__file__).parent / "migrations"


def states(client: WatermarkServiceStub, modality: pb.Modality = IMAGE) -> list[tuple[int, str]]:
    keys = client.ListKeys(pb.ListKeysRequest(modality=modality)).keys
    return [(key.epoch, pb.KeyState.Name(key.state).removeprefix("KEY_STATE_")) for key in keys]


def rotate(client: WatermarkServiceStub, request_id: str = "", modality: pb.Modality = IMAGE) -> pb.Key:
    key: pb.Key = client.RotateKey(pb.RotateKeyRequest(modality=modality, request_id=request_id)).key
    return key


def revoke(client: WatermarkServiceStub, epoch: int) -> pb.Key:
    key: pb.Key = client.RevokeKey(pb.RevokeKeyRequest(modality=IMAGE, epoch=epoch)).key
    return key


def test_the_newest_key_marks_and_others_find(mesh: WatermarkMesh, tenant: str, client: WatermarkServiceStub) -> None:
    assert states(client) == []
    first, second = rotate(client), rotate(client)
    assert (first.epoch, second.epoch, second.modality, second.state) == (0, 1, IMAGE, pb.KEY_STATE_ACTIVE)
    assert [first.name, second.name] == ["keys/image/0", "keys/image/1"]
    assert second.HasField("create_time")
    assert not second.HasField("revoke_time")
    assert states(client) == [(1, "ACTIVE"), (0, "RETIRED")]
    # Neither another modality nor another tenant has a part in it.
    assert states(client, TEXT) == states(mesh.client(f"{tenant}-other")) == []
    assert rotate(client, modality=TEXT).epoch == 0


def test_a_revoked_key_stays_revoked(client: WatermarkServiceStub) -> None:
    rotate(client), rotate(client)
    revoked = revoke(client, 0)
    assert (revoked.state, revoked.HasField("revoke_time")) == (pb.KEY_STATE_REVOKED, True)
    assert revoke(client, 0) == revoked
    revoke(client, 1)
    assert states(client) == [(1, "REVOKED"), (0, "REVOKED")]
    assert rotate(client).epoch == 2
    assert states(client) == [(2, "ACTIVE"), (1, "REVOKED"), (0, "REVOKED")]
    with pytest.raises(NotFound) as caught:
        revoke(client, 3)
    assert (caught.value.reason, caught.value.field) == ("KEY_NOT_FOUND", "epoch")


def test_a_rotation_that_is_repeated_makes_one_key(client: WatermarkServiceStub) -> None:
    assert rotate(client, "r") == rotate(client, "r")
    assert states(client) == [(0, "ACTIVE")]
    with pytest.raises(AlreadyExists):
        rotate(client, "r", TEXT)


def test_there_are_only_so_many_keys(client: WatermarkServiceStub) -> None:
    for _ in range(MAX_KEYS):
        rotate(client)
    with pytest.raises(ResourceExhausted) as caught:
        rotate(client)
    assert caught.value.reason == "TOO_MANY_KEYS"
    revoke(client, 3)
    assert rotate(client).epoch == MAX_KEYS


def test_keys_are_listed_page_by_page(client: WatermarkServiceStub) -> None:
    for _ in range(5):
        rotate(client)
    found: list[int] = []
    token = ""
    while True:
        page = client.ListKeys(pb.ListKeysRequest(modality=IMAGE, page_size=2, page_token=token))
        found += [key.epoch for key in page.keys]
        token = page.next_page_token
        if not token:
            break
        with pytest.raises(InvalidArgument) as caught:
            client.ListKeys(pb.ListKeysRequest(modality=TEXT, page_token=token))
        assert caught.value.reason == "BAD_PAGE_TOKEN"
    assert found == [4, 3, 2, 1, 0]


@pytest.mark.parametrize("method", ["ListKeys", "RotateKey", "RevokeKey"])
def test_a_modality_has_to_be_named(client: WatermarkServiceStub, method: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        getattr(client, method)(getattr(pb, f"{method}Request")())
    assert (caught.value.reason, caught.value.field) == ("BAD_VALUE", "modality")


def test_keys_are_an_admins(mesh: WatermarkMesh, tenant: str) -> None:
    writer = mesh.client(tenant, Role.WRITER)
    with pytest.raises(PermissionDenied):
        rotate(writer)
    with pytest.raises(PermissionDenied):
        revoke(writer, 0)
    with pytest.raises(PermissionDenied):
        mesh.client(tenant, Role.READER).MarkImage(pb.MarkImageRequest())


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/watermark.db")
    database.migrate(MIGRATIONS)
    yield database
    database.close()


def marking(keys: KeyStore, request_id: str = "") -> MarkingKey:
    return keys.marking_key("default", "image", Repeatable("MarkImage", request_id))


def test_the_migrations_make_the_declared_tables(database: Database) -> None:
    assert differences(database, tables.KeyRow) == []


def test_another_master_key_is_refused_wherever_it_would_be_used(database: Database) -> None:
    keys = KeyStore(database, bytes(range(32)))
    assert not has_keys(database)
    KeyStore(database, bytes(32)).check_master()
    marking(keys)
    assert has_keys(database)
    keys.check_master()
    wrong = KeyStore(database, bytes(32))
    for use in (
        wrong.check_master,
        lambda: marking(wrong),
        lambda: wrong.detection_keys("default", "image"),
        lambda: wrong.rotate("default", "image", Repeatable("RotateKey")),
    ):
        with pytest.raises(FailedPrecondition, match="restore that key as master_key_file") as caught:
            use()
        assert (caught.value.reason, caught.value.field) == ("WRONG_MASTER_KEY", "master_key_file")
    # What has become known can be revoked also by whoever has lost the master key.
    assert wrong.revoke("default", "image", 0).state is KeyState.REVOKED


def test_what_a_call_is_marked_with_is_settled_once(database: Database) -> None:
    keys = KeyStore(database, bytes(range(32)))
    first = marking(keys, "r")
    keys.rotate("default", "image", Repeatable("RotateKey"))
    assert marking(keys, "r") == first
    assert marking(keys).key.epoch == 1
    assert marking(keys).request_id != marking(keys).request_id
    assert [key.epoch for key in keys.detection_keys("default", "image").usable] == [1, 0]


def test_marks_are_looked_for_by_the_newest_revoked_keys_too(database: Database) -> None:
    keys = KeyStore(database, bytes(range(32)))
    first = keys.detection_keys("default", "image")
    assert ([key.epoch for key in first.usable], first.revoked) == ([0], [])
    for epoch in range(8):
        keys.rotate("default", "image", Repeatable("RotateKey"))
        if epoch not in (3, 7):
            keys.revoke("default", "image", epoch)
    found = keys.detection_keys("default", "image")
    assert [key.epoch for key in found.usable] == [7, 3]
    assert [key.epoch for key in found.revoked] == [6, 5, 4, 2]
    assert not found.is_complete
    keys.revoke("default", "image", 3), keys.revoke("default", "image", 7)
    assert keys.detection_keys("default", "image").usable == []


def test_a_repeat_whose_key_was_revoked_asks_for_a_new_request_id(database: Database) -> None:
    keys = KeyStore(database, bytes(range(32)))
    marking(keys, "r")
    keys.revoke("default", "image", 0)
    with pytest.raises(FailedPrecondition, match="RotateKey creates a new key") as caught:
        marking(keys, "another")
    assert (caught.value.reason, caught.value.field) == ("NO_ACTIVE_KEY", "")
    keys.rotate("default", "image", Repeatable("RotateKey"))
    with pytest.raises(FailedPrecondition, match="use a new request id") as repeated:
        marking(keys, "r")
    assert (repeated.value.reason, repeated.value.field) == ("NO_ACTIVE_KEY", "request_id")
    assert marking(keys, "another").key.epoch == 1


def test_keys_of_two_master_keys_never_mix(database: Database) -> None:
    first, second = KeyStore(database, bytes(range(32))), KeyStore(database, bytes(32))
    # Both services have looked at an empty state when they started.
    first.check_master(), second.check_master()
    start = threading.Barrier(2)

    def make(keys: KeyStore, tenant: str) -> str:
        start.wait(30)
        try:
            keys.marking_key(tenant, "image", Repeatable("MarkImage"))
            keys.rotate(tenant, "text", Repeatable("RotateKey"))
        except FailedPrecondition as error:
            return error.reason
        return "made"

    with ThreadPoolExecutor(2) as pool:
        both = [pool.submit(make, keys, tenant) for keys, tenant in ((first, "a"), (second, "b"))]
        assert sorted(one.result(30) for one in both) == ["WRONG_MASTER_KEY", "made"]
    loser = first if both[0].result() != "made" else second
    with pytest.raises(FailedPrecondition) as caught:
        loser.rotate("c", "image", Repeatable("RotateKey"))
    assert caught.value.reason == "WRONG_MASTER_KEY"


def test_no_key_is_in_the_database(database: Database, tmp_path: Path) -> None:
    keys = KeyStore(database, bytes(range(32)))
    secret = marking(keys).key.secret
    kept = b"".join(path.read_bytes() for path in tmp_path.glob("watermark.db*"))
    for hidden in (secret, secret.hex().encode(), bytes(range(32))):
        assert hidden not in kept
