"""Images that are marked and searched for marks over a real server, with a real registry."""

import hashlib
import io
import itertools
import struct
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from common.auth import Role
from common.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from protos.watermark.v1 import watermark_pb2 as pb
from protos.watermark.v1.watermark_pb2_grpc import WatermarkServiceStub
from tests.harness.images import PNG, decoded, encoded, pixels
from tests.services.watermark.conftest import WatermarkMesh, model_version, registered

IMAGE = pb.MODALITY_IMAGE


def mark(client: WatermarkServiceStub, image: bytes = PNG, **fields: Any) -> pb.MarkImageResponse:
    marked: pb.MarkImageResponse = client.MarkImage(pb.MarkImageRequest(image=image, **fields))
    return marked


def detect(client: WatermarkServiceStub, image: bytes, **fields: Any) -> pb.Detection:
    detection: pb.Detection = client.DetectImage(pb.DetectImageRequest(image=image, **fields)).detection
    return detection


def test_an_earlier_mark_that_hides_a_second_one_is_named(client: WatermarkServiceStub) -> None:
    first = mark(client)
    with pytest.raises(FailedPrecondition) as caught:
        [mark(client, first.image) for _ in range(20)]  # one in six succeeds
    assert (caught.value.reason, caught.value.field) == ("ALREADY_MARKED", "image")
    assert first.watermark in caught.value.message


@pytest.mark.parametrize("format", ["PNG", "JPEG", "WEBP"])
def test_a_marked_image_tells_its_id_and_the_registry_knows_it(
    mesh: WatermarkMesh, tenant: str, client: WatermarkServiceStub, format: str
) -> None:
    version = model_version(mesh, tenant)
    marked = mark(client, encoded(pixels(), format), model_version=version)
    assert marked.psnr_db >= 42
    assert marked.ssim >= 0.98

    detection = detect(client, marked.image, locate=True)
    assert (detection.verdict, detection.watermark) == (pb.VERDICT_MARKED, marked.watermark)
    assert detection.p in (1e-6, 1e-12, 1e-24)
    assert (detection.region.right, detection.region.bottom) == (320, 256)
    assert not detect(client, marked.image).HasField("region")
    (known,) = registered(mesh, tenant)
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


def test_another_tenant_finds_no_mark(mesh: WatermarkMesh, tenant: str, client: WatermarkServiceStub) -> None:
    other = mesh.client(f"{tenant}-other")
    mark(other)
    marked = mark(client)
    detection = detect(other, marked.image)
    assert detection.verdict in (pb.VERDICT_NOT_MARKED, pb.VERDICT_INCONCLUSIVE)  # by chance
    assert not detection.watermark
    version = model_version(mesh, tenant)
    with pytest.raises(NotFound) as caught:
        mark(other, model_version=version)
    assert (caught.value.reason, caught.value.field) == ("MODEL_VERSION_NOT_FOUND", "model_version")


def test_only_an_admin_sees_evidence(mesh: WatermarkMesh, tenant: str, client: WatermarkServiceStub) -> None:
    marked = mark(mesh.client(tenant, Role.WRITER))
    for role, sees in ((Role.READER, False), (Role.WRITER, False), (Role.ADMIN, True)):
        for image in (marked.image, PNG):
            detection = detect(mesh.client(tenant, role), image)
            assert detection.HasField("evidence") is sees
            assert detection.p in (1.0, 1e-2, 1e-6, 1e-12, 1e-24)
    assert detect(client, marked.image).evidence.log_p < -14


def test_a_call_that_is_repeated_gives_the_same_file_and_id_also_after_a_rotation(
    mesh: WatermarkMesh, tenant: str, client: WatermarkServiceStub
) -> None:
    first = mark(client, request_id="r")
    client.RotateKey(pb.RotateKeyRequest(modality=IMAGE))
    assert mark(client, request_id="r") == first
    assert [known.name for known in registered(mesh, tenant)] == [first.watermark]
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
    mesh: WatermarkMesh, tenant: str, client: WatermarkServiceStub
) -> None:
    whole = pixels(6, 400, 500)
    whole[50:350, 70:430] = decoded(mark(client, encoded(whole[50:350, 70:430]), min_psnr_db=38).image)
    exact = detect(client, encoded(whole), locate=True).region
    rounded = detect(mesh.client(tenant, Role.READER), encoded(whole), locate=True).region
    assert rounded != exact
    assert (rounded.left, rounded.top) == (exact.left * 16 // 500 * 500 // 16, exact.top * 16 // 400 * 400 // 16)
    assert rounded.left <= exact.left < exact.right <= rounded.right
    assert rounded.top <= exact.top < exact.bottom <= rounded.bottom
    assert (rounded.right * 16 % 500 < 16, rounded.bottom * 16 % 400) == (True, 0)


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
def test_what_cannot_be_marked_says_why(
    mesh: WatermarkMesh, tenant: str, client: WatermarkServiceStub, name: str
) -> None:
    request, reason, field = BAD[name]
    with pytest.raises(InvalidArgument) as caught:
        client.MarkImage(request)
    assert (caught.value.reason, caught.value.field) == (reason, field)
    assert registered(mesh, tenant) == []


def test_a_stream_goes_on_after_what_is_wrong(mesh: WatermarkMesh, tenant: str, client: WatermarkServiceStub) -> None:
    images = (DAMAGED, PNG, b"", encoded(pixels(2), "JPEG"))
    requests = (pb.MarkImagesRequest(request=pb.MarkImageRequest(image=image)) for image in images)
    answers = list(client.MarkImages(requests, timeout=60))
    assert [answer.WhichOneof("result") for answer in answers] == ["failure", "response", "failure", "response"]
    for answer, reason in ((answers[0], "DAMAGED_IMAGE"), (answers[2], "UNSUPPORTED_IMAGE")):
        assert (answer.failure.code, answer.failure.reason, answer.failure.field) == (3, reason, "image")
        assert answer.failure.message
        assert not answer.failure.HasField("retry_delay")
    marked = [answers[1].response, answers[3].response]
    assert [known.name for known in registered(mesh, tenant)] == [one.watermark for one in marked[::-1]]

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
