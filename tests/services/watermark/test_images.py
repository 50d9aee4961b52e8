"""Images over a real server, with a real registry."""

import hashlib
import io
import itertools
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

import services.watermark
from common.auth import Role
from common.channel import open_channel
from common.database import Database
from common.errors import AlreadyExists, DeadlineExceeded, FailedPrecondition, InvalidArgument, NotFound
from deepseek.watermark.keys import derive_key
from protos.registry.v1 import registry_pb2
from protos.watermark.v1 import watermark_pb2 as pb
from protos.watermark.v1.watermark_pb2_grpc import WatermarkServiceStub
from services.watermark.images import Images, Limits, MarkedImage, _random
from services.watermark.keys import Keys, Marking
from services.watermark.registry import Registry
from services.watermark.turns import Turns
from tests.services.watermark.conftest import Site, model_version
from tests.services.watermark.pictures import PNG, decoded, encoded, pixels

IMAGE = pb.MODALITY_IMAGE


def mark(client: WatermarkServiceStub, image: bytes = PNG, **fields: Any) -> pb.MarkImageResponse:
    marked: pb.MarkImageResponse = client.MarkImage(pb.MarkImageRequest(image=image, **fields))
    return marked


def detect(client: WatermarkServiceStub, image: bytes, **fields: Any) -> pb.Detection:
    detection: pb.Detection = client.DetectImage(pb.DetectImageRequest(image=image, **fields)).detection
    return detection


def registered(site: Site, tenant: str) -> list[registry_pb2.Watermark]:
    return list(site.marks(tenant).ListWatermarks(registry_pb2.ListWatermarksRequest()).watermarks)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_marked_image_tells_its_id_and_the_registry_knows_it(
    site: Site, tenant: str, client: WatermarkServiceStub, format: str
) -> None:
    version = model_version(site, tenant)
    marked = mark(client, encoded(pixels(), format), model_version=version)
    assert marked.psnr_db >= 42
    assert marked.ssim >= 0.98

    detection = detect(client, marked.image, locate=True)
    assert (detection.verdict, detection.watermark) == (pb.VERDICT_MARKED, marked.watermark)
    assert detection.p in (1e-6, 1e-12, 1e-24)
    assert (detection.region.right, detection.region.bottom) == (320, 256)
    assert not detect(client, marked.image).HasField("region")
    (known,) = registered(site, tenant)
    assert (known.name, known.modality, known.model_version) == (marked.watermark, IMAGE, version)
    assert known.content_sha256 == hashlib.sha256(marked.image).hexdigest()
    assert (known.content_size_bytes, known.key_epoch) == (len(marked.image), 0)


def test_a_mark_is_found_after_turning_cropping_and_scaling(client: WatermarkServiceStub) -> None:
    marked = mark(client, encoded(pixels(1, 400, 500)), min_psnr_db=38)
    turned = Image.fromarray(decoded(marked.image)).rotate(7, Image.Resampling.BICUBIC).crop((60, 50, 440, 350))
    detection = detect(client, encoded(np.asarray(turned)))
    assert (detection.verdict, detection.watermark) == (pb.VERDICT_MARKED, marked.watermark)
    assert detection.evidence.angle_degrees == pytest.approx(-7, abs=0.5)  # the y-axis points down


def test_an_image_without_a_mark_is_not_marked_and_a_small_one_says_nothing(client: WatermarkServiceStub) -> None:
    detection = detect(client, PNG)
    assert (detection.verdict, detection.watermark, detection.p) == (pb.VERDICT_NOT_MARKED, "", 1.0)
    small = detect(client, encoded(pixels(height=63, width=200)))
    assert (small.verdict, small.p) == (pb.VERDICT_INCONCLUSIVE, 1.0)


def test_looking_makes_no_key(client: WatermarkServiceStub) -> None:
    detect(client, PNG)
    assert not client.ListKeys(pb.ListKeysRequest(modality=IMAGE)).keys


def test_another_tenant_finds_no_mark(site: Site, tenant: str, client: WatermarkServiceStub) -> None:
    other = site.client(f"{tenant}-other")
    mark(other)
    marked = mark(client)
    detection = detect(other, marked.image)
    assert detection.verdict in (pb.VERDICT_NOT_MARKED, pb.VERDICT_INCONCLUSIVE)  # by chance
    assert not detection.watermark
    version = model_version(site, tenant)
    with pytest.raises(NotFound) as caught:
        mark(other, model_version=version)
    assert (caught.value.reason, caught.value.field) == ("MODEL_VERSION_NOT_FOUND", "model_version")


def test_only_an_admin_sees_evidence(site: Site, tenant: str, client: WatermarkServiceStub) -> None:
    marked = mark(site.client(tenant, Role.WRITER))
    for role, sees in ((Role.READER, False), (Role.WRITER, False), (Role.ADMIN, True)):
        for image in (marked.image, PNG):
            detection = detect(site.client(tenant, role), image)
            assert detection.HasField("evidence") is sees
            assert detection.p in (1.0, 1e-2, 1e-6, 1e-12, 1e-24)
    assert detect(client, marked.image).evidence.log_p < -14


def test_a_call_that_is_repeated_gives_the_same_file_and_id_also_after_a_rotation(
    site: Site, tenant: str, client: WatermarkServiceStub
) -> None:
    first = mark(client, request_id="r")
    client.RotateKey(pb.RotateKeyRequest(modality=IMAGE))
    assert mark(client, request_id="r") == first
    assert [known.name for known in registered(site, tenant)] == [first.watermark]
    with pytest.raises(AlreadyExists) as caught:
        mark(client, encoded(pixels(5)), request_id="r")
    assert caught.value.reason == "REQUEST_ID_REUSED"
    again = mark(client)
    assert again.watermark != first.watermark
    assert again.image != first.image


def test_what_an_earlier_key_marked_is_found_until_that_key_is_revoked(client: WatermarkServiceStub) -> None:
    before = mark(client)
    assert client.RotateKey(pb.RotateKeyRequest(modality=IMAGE)).key.epoch == 1
    after = mark(client)
    assert detect(client, before.image).watermark == before.watermark
    assert detect(client, after.image).watermark == after.watermark
    assert [detect(client, one.image).evidence.epoch for one in (before, after)] == [0, 1]

    client.RevokeKey(pb.RevokeKeyRequest(modality=IMAGE, epoch=0))
    # What others could have marked is not called unmarked.
    lost = detect(client, before.image, locate=True)
    assert lost == pb.Detection(verdict=pb.VERDICT_INCONCLUSIVE, p=1)
    assert detect(client, PNG).verdict == pb.VERDICT_NOT_MARKED
    assert detect(client, after.image).watermark == after.watermark

    client.RevokeKey(pb.RevokeKeyRequest(modality=IMAGE, epoch=1))
    nothing = detect(client, after.image)
    assert (nothing.verdict, nothing.watermark, nothing.p) == (pb.VERDICT_INCONCLUSIVE, "", 1.0)
    with pytest.raises(FailedPrecondition) as caught:
        mark(client)
    assert caught.value.reason == "NO_ACTIVE_KEY"
    client.RotateKey(pb.RotateKeyRequest(modality=IMAGE))
    marked = mark(client)
    assert detect(client, marked.image).watermark == marked.watermark


def test_a_call_whose_key_was_revoked_is_not_repeated_with_it(client: WatermarkServiceStub) -> None:
    mark(client, request_id="r")
    client.RotateKey(pb.RotateKeyRequest(modality=IMAGE))
    client.RevokeKey(pb.RevokeKeyRequest(modality=IMAGE, epoch=0))
    with pytest.raises(FailedPrecondition) as caught:
        mark(client, request_id="r")
    assert caught.value.reason == "NO_ACTIVE_KEY"


FLAT = np.full((128, 128, 3), 127, np.uint8)
UNSEEN = np.dstack([FLAT, np.ones((128, 128), np.uint8)])


@pytest.mark.parametrize(
    ("image", "fields", "field"),
    [
        (encoded(FLAT, "JPEG"), {"min_psnr_db": 60, "encoding_quality": 1}, "encoding_quality"),
        (encoded(FLAT, "JPEG"), {"min_psnr_db": 60, "encoding_quality": 50}, "min_psnr_db"),
        # What is not lossy has no quality that could be raised.
        (encoded(UNSEEN), {"encoding_quality": 1}, "min_psnr_db"),
        (encoded(UNSEEN), {"min_psnr_db": 30}, "image"),
    ],
    ids=["quality", "strength", "lossless", "nothing"],
)
def test_a_mark_that_could_not_be_read_again_is_refused_with_what_helps(
    client: WatermarkServiceStub, image: bytes, fields: dict[str, Any], field: str
) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        mark(client, image, **fields)
    assert (caught.value.reason, caught.value.field) == ("MARK_TOO_WEAK", field)
    assert field in caught.value.message


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_mark_is_found_whether_a_program_turns_pixels_by_their_orientation_or_not(
    client: WatermarkServiceStub, format: str, orientation: int
) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    photo = encoded(pixels(), format, exif=exif)
    marked = mark(client, photo)
    with Image.open(io.BytesIO(photo)) as original, Image.open(io.BytesIO(marked.image)) as image:
        turned, untouched = ImageOps.exif_transpose(image).convert("RGB"), image.convert("RGB")
        assert turned.size == untouched.size == ImageOps.exif_transpose(original).size
    for shown in (np.asarray(turned), np.asarray(untouched)):
        detection = detect(client, encoded(shown, "JPEG", quality=90), aligned_only=True)
        assert detection.watermark == marked.watermark


def test_an_image_with_transparency_is_marked_where_it_is_seen(client: WatermarkServiceStub) -> None:
    alpha = np.full((256, 320), 255, np.uint8)
    alpha[:, :80] = 0
    marked = mark(client, encoded(np.dstack([pixels(), alpha])))
    assert detect(client, marked.image).watermark == marked.watermark
    # Over the grey that a viewer may show it on.
    flat = decoded(marked.image).copy()
    flat[alpha == 0] = 128
    assert detect(client, encoded(flat)).watermark == marked.watermark


def test_the_quality_that_is_told_is_that_of_what_can_be_seen(client: WatermarkServiceStub) -> None:
    alpha = np.zeros((512, 512), np.uint8)
    alpha[100:340, 150:400] = 255
    whole = pixels(3, 512, 512)
    marked = mark(client, encoded(np.dstack([whole, alpha])))
    seen = alpha > 0
    error = np.square(decoded(marked.image)[..., :3][seen].astype(float) - whole[seen]).mean()
    assert marked.psnr_db == pytest.approx(10 * np.log10(255**2 / error), abs=0.01)
    assert marked.psnr_db > 41.7
    assert detect(client, marked.image).watermark == marked.watermark


def test_what_was_asked_for_holds_in_small_images_as_well(client: WatermarkServiceStub) -> None:
    small = encoded(pixels(4, 160, 160))
    assert 36 < mark(client, small).psnr_db < 42
    assert mark(client, small, min_psnr_db=46).psnr_db >= 46


def test_only_an_admin_learns_to_the_pixel_where_a_mark_is(
    site: Site, tenant: str, client: WatermarkServiceStub
) -> None:
    whole = pixels(6, 400, 500)
    whole[50:350, 70:430] = decoded(mark(client, encoded(whole[50:350, 70:430]), min_psnr_db=38).image)
    exact = detect(client, encoded(whole), locate=True).region
    rounded = detect(site.client(tenant, Role.READER), encoded(whole), locate=True).region
    assert rounded != exact
    assert (rounded.left, rounded.top) == (exact.left * 16 // 500 * 500 // 16, exact.top * 16 // 400 * 400 // 16)
    assert rounded.left <= exact.left < exact.right <= rounded.right
    assert rounded.top <= exact.top < exact.bottom <= rounded.bottom
    assert (rounded.right * 16 % 500 < 16, rounded.bottom * 16 % 400) == (True, 0)


@dataclass
class Meanwhile:
    """A registry, with what happens right before it answers."""

    registry: Registry
    then: Callable[[], object]

    def create(self, *arguments: Any) -> int:
        self.then()
        return self.registry.create(*arguments)

    def set_content(self, *arguments: Any) -> None:
        self.registry.set_content(*arguments)

    def check_version(self, *arguments: Any) -> None:
        self.registry.check_version(*arguments)


@dataclass(frozen=True)
class Inside:
    """The service without its server, with one turn.

    Attributes:
        keys: Of a state of its own.
        registry: The real one.
        turns: One at once, and nobody waits.
    """

    keys: Keys
    registry: Registry
    turns: Turns

    def mark(self, tenant: str, then: Callable[[], object] = lambda: None, **settings: Any) -> MarkedImage:
        """Marks an image; `then` is done while the registry is asked."""
        images = Images(self.keys, Meanwhile(self.registry, then), self.turns, Limits(1 << 24, 1 << 24))
        given = {"model_version": "", "min_psnr_db": 0, "encoding_quality": 0, "request_id": "", "body": b""}
        return images.mark(tenant, PNG, **given | settings, patient=False)


@pytest.fixture
def inside(site: Site, tmp_path: Path) -> Iterator[Inside]:
    database = Database(f"sqlite:///{tmp_path}/watermark.db")
    database.migrate(Path(services.watermark.__file__).parent / "migrations")
    with open_channel(site.registry, identity=site.home / "identity" / "watermark") as channel:
        yield Inside(Keys(database, bytes(range(32))), Registry(channel), Turns(1, 0))
    database.close()


def test_no_turn_is_held_while_the_registry_is_asked(site: Site, tenant: str, inside: Inside) -> None:
    looked = []

    def look() -> None:
        with inside.turns.take(patient=False):
            looked.append("in the only turn")

    marked = inside.mark(tenant, look)
    assert looked == ["in the only turn"]
    assert [known.name for known in registered(site, tenant)] == [marked.watermark]


def test_what_a_key_marked_that_was_revoked_meanwhile_is_not_handed_out(
    site: Site, tenant: str, inside: Inside
) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        inside.mark(tenant, lambda: inside.keys.revoke(tenant, "image", 0))
    assert caught.value.reason == "NO_ACTIVE_KEY"
    assert [known.content_sha256 for known in registered(site, tenant)] == [""]


def test_all_work_is_done_before_a_mark_is_made_known(
    site: Site, tenant: str, inside: Inside, monkeypatch: pytest.MonkeyPatch
) -> None:
    def late(*_: object) -> None:
        raise DeadlineExceeded("DEADLINE_EXCEEDED", "late")

    monkeypatch.setattr("services.watermark.images.quality", late)
    with pytest.raises(DeadlineExceeded):
        inside.mark(tenant)
    assert [known.content_sha256 for known in registered(site, tenant)] == [""]
    # Its turn was given back.
    with inside.turns.take(patient=False):
        pass


def test_only_markers_of_the_default_strength_are_kept(inside: Inside, tenant: str) -> None:
    images = Images(inside.keys, inside.registry, inside.turns, Limits(1 << 24, 1 << 24))

    def psnr_db(least: float) -> float:
        given = {"model_version": "", "encoding_quality": 0, "request_id": "", "body": b"", "patient": False}
        return images.mark(tenant, PNG, min_psnr_db=least, **given).quality.psnr_db  # type: ignore[arg-type]

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
    drawn = _random(Marking(key, "watermark-1")).integers(512, size=(2, 1000))
    assert drawn[0, :3].tolist() == [324, 178, 362]
    assert (drawn == _random(Marking(key, "watermark-1")).integers(512, size=(2, 1000))).all()
    assert not (drawn == _random(Marking(key, "watermark-2")).integers(512, size=(2, 1000))).all(0).any()
    other = derive_key(bytes(range(32)), tenant="lab", modality="image", epoch=1)
    assert not (drawn == _random(Marking(other, "watermark-1")).integers(512, size=(2, 1000))).all(0).any()


DAMAGED = PNG[: len(PNG) // 2]


def with_much_exif() -> bytes:
    """A JPEG file whose EXIF needs two segments, as some cameras write it."""
    exif = Image.Exif()
    exif[0x010E] = "x" * 40_000
    whole = encoded(pixels(), "JPEG", exif=exif)
    start = whole.index(b"\xff\xe1")
    (size,) = struct.unpack(">H", whole[start + 2 : start + 4])
    segment = whole[start : start + 2 + size]
    return whole[:start] + segment + whole[start:]


BAD = {
    "no image": (pb.MarkImageRequest(), "UNSUPPORTED_IMAGE", "image"),
    "damaged": (pb.MarkImageRequest(image=DAMAGED), "DAMAGED_IMAGE", "image"),
    "another format": (pb.MarkImageRequest(image=encoded(pixels(), "BMP")), "UNSUPPORTED_IMAGE", "image"),
    "too small": (pb.MarkImageRequest(image=encoded(pixels(height=127))), "IMAGE_TOO_SMALL", "image"),
    "a side too long": (
        pb.MarkImageRequest(image=encoded(np.zeros((8, 16_385), np.uint8))),
        "IMAGE_TOO_LARGE",
        "image",
    ),
    "16 bits": (
        pb.MarkImageRequest(image=encoded(np.zeros((128, 128), np.uint16))),
        "UNSUPPORTED_IMAGE",
        "image",
    ),
    "exif of several segments": (
        pb.MarkImageRequest(image=with_much_exif()),
        "UNSUPPORTED_IMAGE",
        "image",
    ),
    "too good": (pb.MarkImageRequest(image=PNG, min_psnr_db=60.5), "BAD_VALUE", "min_psnr_db"),
    "too bad": (pb.MarkImageRequest(image=PNG, min_psnr_db=29), "BAD_VALUE", "min_psnr_db"),
    "no number": (pb.MarkImageRequest(image=PNG, min_psnr_db=float("nan")), "BAD_VALUE", "min_psnr_db"),
    "no quality": (pb.MarkImageRequest(image=PNG, encoding_quality=101), "BAD_VALUE", "encoding_quality"),
    "no version": (pb.MarkImageRequest(image=PNG, model_version="?"), "BAD_NAME", "model_version"),
    "no request id": (pb.MarkImageRequest(image=PNG, request_id="a b"), "BAD_VALUE", "request_id"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_marked_says_why(site: Site, tenant: str, client: WatermarkServiceStub, name: str) -> None:
    request, reason, field = BAD[name]
    with pytest.raises(InvalidArgument) as caught:
        client.MarkImage(request)
    assert (caught.value.reason, caught.value.field) == (reason, field)
    assert registered(site, tenant) == []


def test_a_stream_goes_on_after_what_is_wrong(site: Site, tenant: str, client: WatermarkServiceStub) -> None:
    images = (DAMAGED, PNG, b"", encoded(pixels(2), "JPEG"))
    requests = (pb.MarkImagesRequest(request=pb.MarkImageRequest(image=image)) for image in images)
    answers = list(client.MarkImages(requests, timeout=60))
    assert [answer.WhichOneof("result") for answer in answers] == ["failure", "response", "failure", "response"]
    for answer, reason in ((answers[0], "DAMAGED_IMAGE"), (answers[2], "UNSUPPORTED_IMAGE")):
        assert (answer.failure.code, answer.failure.reason, answer.failure.field) == (3, reason, "image")
        assert answer.failure.message
        assert not answer.failure.HasField("retry_delay")
    marked = [answers[1].response, answers[3].response]
    assert [known.name for known in registered(site, tenant)] == [one.watermark for one in marked[::-1]]

    looked_into = [marked[1].image, DAMAGED, PNG, marked[0].image]
    more = (pb.DetectImagesRequest(request=pb.DetectImageRequest(image=image)) for image in looked_into)
    found = list(client.DetectImages(more, timeout=60))
    assert [answer.response.detection.watermark for answer in found] == [
        marked[1].watermark,
        "",
        "",
        marked[0].watermark,
    ]
    assert found[1].failure.reason == "DAMAGED_IMAGE"


def test_answers_of_a_stream_come_one_by_one(client: WatermarkServiceStub) -> None:
    asked = itertools.count()

    def requests() -> Iterator[pb.DetectImagesRequest]:
        for _ in range(3):
            next(asked)
            yield pb.DetectImagesRequest(request=pb.DetectImageRequest(image=PNG, aligned_only=True))

    for answer in client.DetectImages(requests(), timeout=60):
        assert answer.HasField("response")
    assert next(asked) == 3
