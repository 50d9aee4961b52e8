"""How little a detector tells those who would use it to take marks away."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from common.auth import Caller, Role
from common.auth.caller import LOCAL
from common.errors import ResourceExhausted
from deepseek.watermark.image.detector import Region
from deepseek.watermark.text.detection import Span
from protos.watermark.v1 import watermark_pb2 as pb
from services.watermark.disclosure import DetectionQuota, coarse_region, coarse_spans
from tests.harness.images import PNG
from tests.harness.in_process import service_in_process
from tests.services.watermark.conftest import WatermarkMesh


def test_a_caller_may_ask_so_often_a_minute() -> None:
    now = 0.0
    quota = DetectionQuota(60, clock=lambda: now)
    ana, ben = Caller("lab", "ana", Role.READER), Caller("lab", "ben", Role.READER)
    for _ in range(60):
        quota.count(ana)
    with pytest.raises(ResourceExhausted, match="60 detections per minute") as caught:
        quota.count(ana)
    assert (caught.value.reason, caught.value.retry_delay_s) == ("TOO_MANY_DETECTIONS", 1.0)
    quota.count(ben)
    now = 1.0
    quota.count(ana)
    with pytest.raises(ResourceExhausted):
        quota.count(ana)
    # Whoever is alone on this machine is its operator.
    for _ in range(100):
        quota.count(LOCAL)


@pytest.fixture
def strict(mesh: WatermarkMesh, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WatermarkMesh]:
    """A service that answers four detections. Its clock is stopped, because a fifth is allowed after 15 seconds."""
    monkeypatch.setattr(DetectionQuota.__init__, "__defaults__", (lambda: 0.0,))
    settings = {"registry": mesh.registry, "identity": mesh.authority.identity("watermark")}
    with service_in_process("watermark", tmp_path, **settings, max_detections_per_minute=4) as server:
        yield replace(mesh, watermark=server.address)


@pytest.mark.parametrize("role", [Role.READER, Role.ADMIN])
def test_questions_in_streams_are_counted_one_by_one(strict: WatermarkMesh, tenant: str, role: Role) -> None:
    client = strict.client(tenant, role)
    image, text = pb.DetectImageRequest(image=PNG, aligned_only=True), pb.DetectTextRequest(tokens=[1, 2, 3])
    client.DetectImage(image)
    answers = list(client.DetectTexts(iter([pb.DetectTextsRequest(request=text)] * 5), timeout=60))
    assert [answer.WhichOneof("result") for answer in answers] == ["response"] * 3 + ["failure"] * 2
    (more,) = client.DetectImages(iter([pb.DetectImagesRequest(request=image)]), timeout=60)
    for failure in (answers[3].failure, answers[4].failure, more.failure):
        assert failure.code == grpc.StatusCode.RESOURCE_EXHAUSTED.value[0]
        assert failure.reason == "TOO_MANY_DETECTIONS"
        assert 10 < failure.retry_delay.ToTimedelta().total_seconds() <= 15
    for ask in (lambda: client.DetectImage(image), lambda: client.DetectText(text)):
        with pytest.raises(ResourceExhausted) as caught:
            ask()
        assert caught.value.reason == "TOO_MANY_DETECTIONS"
        assert caught.value.retry_delay_s is not None
    # Marks and keys are no quota, and another tenant asks for itself.
    client.ListKeys(pb.ListKeysRequest(modality=pb.MODALITY_IMAGE))
    strict.client(f"{tenant}-other", role).DetectText(text)


@pytest.mark.parametrize("height", [128, 250, 1000, 17])
@pytest.mark.parametrize("width", [128, 333, 16_384])
def test_regions_are_rounded_outwards_to_sixteenths(height: int, width: int) -> None:
    steps_y, steps_x = ([side * part // 16 for part in range(17)] for side in (height, width))
    for left, right in ((0, width), (1, width - 1), (width // 3, width // 2), (width // 16, width // 8)):
        region = coarse_region(Region(left, 3, right, height - 2), height, width)
        assert 0 <= region.left <= left < right <= region.right <= width
        assert 0 <= region.top <= 3 < height - 2 <= region.bottom <= height
        assert (region.left in steps_x, region.top in steps_y) == (True, True)
        assert (width - region.right in steps_x, height - region.bottom in steps_y) == (True, True)
        # By less than a sixteenth.
        assert max(left - region.left, region.right - right) <= width // 16 + 1


def test_spans_are_rounded_outwards_to_multiples_of_16_or_the_end() -> None:
    spans = [Span(0, 16, 7), Span(17, 33), Span(100, 205, 8)]
    assert coarse_spans(spans, 205) == (Span(0, 16, 7), Span(16, 48), Span(96, 205, 8))
    assert coarse_spans([], 10) == ()
