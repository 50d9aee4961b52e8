"""How an image is marked: the order of slots, keys, registry and work, without the server in front."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import services.watermark
from common.channel import open_channel
from common.database import Database, Repeatable
from common.errors import DeadlineExceeded, FailedPrecondition
from deepseek.watermark.keys import derive_key
from services.watermark.clients.registry import RegistryClient
from services.watermark.images import ImageWatermarks, Limits, MarkedImage, _random
from services.watermark.keys import KeyStore, MarkingKey
from services.watermark.slots import WorkSlots
from tests.harness.images import PNG
from tests.services.watermark.conftest import WatermarkMesh, registered


@dataclass
class Meanwhile:
    """A registry, with what happens right before it answers."""

    registry: RegistryClient
    then: Callable[[], object]

    def create_watermark(self, *arguments: Any) -> int:
        self.then()
        return self.registry.create_watermark(*arguments)

    def set_watermark_content(self, *arguments: Any) -> None:
        self.registry.set_watermark_content(*arguments)

    def check_model_version(self, *arguments: Any) -> None:
        self.registry.check_model_version(*arguments)


@dataclass(frozen=True)
class Inside:
    """The service without its server, with one work slot.

    Attributes:
        keys: Of a state of its own.
        registry: The real one.
        slots: One at once, and nobody waits.
    """

    keys: KeyStore
    registry: RegistryClient
    slots: WorkSlots

    def mark(self, tenant: str, then: Callable[[], object] = lambda: None, **settings: Any) -> MarkedImage:
        """Marks an image; `then` is done while the registry is asked."""
        images = ImageWatermarks(self.keys, Meanwhile(self.registry, then), self.slots, Limits(1 << 24, 1 << 24))
        call = Repeatable("MarkImage", settings.pop("request_id", ""))
        given = {"model_version": "", "min_psnr_db": 0, "encoding_quality": 0}
        return images.mark(tenant, PNG, call, **given | settings, may_queue_freely=False)


@pytest.fixture
def inside(mesh: WatermarkMesh, tmp_path: Path) -> Iterator[Inside]:
    database = Database(f"sqlite:///{tmp_path}/watermark.db")
    database.migrate(Path(services.watermark.__file__).parent / "migrations")
    with open_channel(mesh.registry, identity=mesh.authority.identity("watermark")) as channel:
        yield Inside(KeyStore(database, bytes(range(32))), RegistryClient(channel), WorkSlots(1, 0))
    database.close()


def test_no_turn_is_held_while_the_registry_is_asked(mesh: WatermarkMesh, tenant: str, inside: Inside) -> None:
    looked = []

    def look() -> None:
        with inside.slots.acquire(may_queue_freely=False):
            looked.append("in the only turn")

    marked = inside.mark(tenant, look)
    assert looked == ["in the only turn"]
    assert [known.name for known in registered(mesh, tenant)] == [marked.watermark]


def test_what_a_key_marked_that_was_revoked_meanwhile_is_not_handed_out(
    mesh: WatermarkMesh, tenant: str, inside: Inside
) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        inside.mark(tenant, lambda: inside.keys.revoke(tenant, "image", 0))
    assert caught.value.reason == "NO_ACTIVE_KEY"
    assert [known.content_sha256 for known in registered(mesh, tenant)] == [""]


def test_all_work_is_done_before_a_mark_is_made_known(
    mesh: WatermarkMesh, tenant: str, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*_: object) -> None:
        raise DeadlineExceeded("DEADLINE_EXCEEDED", "late")

    monkeypatch.setattr("services.watermark.images.quality", late)
    with pytest.raises(DeadlineExceeded):
        inside.mark(tenant)
    assert [known.content_sha256 for known in registered(mesh, tenant)] == [""]
    # Its turn was given back.
    with inside.slots.acquire(may_queue_freely=False):
        pass


def test_only_markers_of_the_default_strength_are_kept(inside: Inside, tenant: str) -> None:
    images = ImageWatermarks(inside.keys, inside.registry, inside.slots, Limits(1 << 24, 1 << 24))

    def psnr_db(least: float) -> float:
        given = {"model_version": "", "encoding_quality": 0, "may_queue_freely": False}
        call = Repeatable("MarkImage")
        return images.mark(tenant, PNG, call, min_psnr_db=least, **given).quality.psnr_db  # type: ignore[arg-type]

    assert psnr_db(44) >= 44
    assert 38 <= psnr_db(38) < 44
    assert psnr_db(0) >= 42.1
    assert psnr_db(0) >= 42.1
    assert psnr_db(42.1) >= 42.1
    kept = images._marker.cache_info()  # type: ignore[attr-defined]
    assert (kept.hits, kept.currsize) == (1, 1)


def test_what_is_tried_as_origin_hangs_on_key_and_request_alone() -> None:
    """Files that calls were answered with would come out otherwise after an upgrade."""
    key = derive_key(bytes(range(32)), tenant="lab", modality="image", epoch=0)
    drawn = _random(MarkingKey(key, "watermark-1")).integers(512, size=(2, 1000))
    assert drawn[0, :3].tolist() == [324, 178, 362]
    assert (drawn == _random(MarkingKey(key, "watermark-1")).integers(512, size=(2, 1000))).all()
    assert not (drawn == _random(MarkingKey(key, "watermark-2")).integers(512, size=(2, 1000))).all(0).any()
    other = derive_key(bytes(range(32)), tenant="lab", modality="image", epoch=1)
    assert not (drawn == _random(MarkingKey(other, "watermark-1")).integers(512, size=(2, 1000))).all(0).any()
