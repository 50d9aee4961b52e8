"""Images over a real server, with a real registry."""

import hashlib
import itertools
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from PIL import Image

from common.auth import Role
from common.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from deepseek.models import manifest as model_manifest
from protos.artifact.v1 import artifact_pb2
from protos.registry.v1 import registry_pb2
from protos.watermark.v1 import watermark_pb2 as pb
from protos.watermark.v1.watermark_pb2_grpc import WatermarkServiceStub
from tests.services.watermark.conftest import Site
from tests.services.watermark.pictures import PNG, decoded, encoded, pixels

IMAGE = pb.MODALITY_IMAGE


def mark(client: WatermarkServiceStub, image: bytes = PNG, **fields: Any) -> pb.MarkImageResponse:
    marked: pb.MarkImageResponse = client.MarkImage(pb.MarkImageRequest(image=image, **fields))
    return marked


def detect(client: WatermarkServiceStub, image: bytes, **fields: Any) -> pb.Detection:
    detection: pb.Detection = client.DetectImage(pb.DetectImageRequest(image=image, **fields)).detection
    return detection


def model_version(site: Site, tenant: str) -> str:
    manifest = artifact_pb2.Artifact(sha256="ab" * 32, size_bytes=1, media_type=model_manifest.MEDIA_TYPE)
    request = registry_pb2.CreateModelVersionRequest(parent="models/m", manifest=manifest)
    name: str = site.marks(tenant).CreateModelVersion(request).model_version.name
    return name


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
    assert (detection.verdict, detection.watermark) == (pb.VERDICT_NOT_MARKED, "")
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
    lost = detect(client, before.image)
    assert (lost.verdict, lost.watermark) == (pb.VERDICT_NOT_MARKED, "")
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


def test_a_mark_that_could_not_be_read_again_is_refused(client: WatermarkServiceStub) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        mark(client, encoded(np.full((128, 128, 3), 127, np.uint8), "JPEG"), min_psnr_db=60, encoding_quality=1)
    assert caught.value.reason == "MARK_TOO_WEAK"


DAMAGED = PNG[: len(PNG) // 2]
BAD = {
    "no image": (pb.MarkImageRequest(), "DAMAGED_IMAGE", "image"),
    "damaged": (pb.MarkImageRequest(image=DAMAGED), "DAMAGED_IMAGE", "image"),
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
    for answer in (answers[0], answers[2]):
        assert (answer.failure.code, answer.failure.reason, answer.failure.field) == (3, "DAMAGED_IMAGE", "image")
        assert answer.failure.message
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
