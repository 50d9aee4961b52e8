"""The service as a process of its own, beside a registry."""

import json
import signal
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

from common.config import load_settings
from common.errors import FailedPrecondition, InvalidArgument, ResourceExhausted, Unavailable
from common.server.process import open_service
from protos.registry.v1 import registry_pb2
from protos.registry.v1.registry_pb2_grpc import RegistryServiceStub
from protos.upkeep.v1 import upkeep_pb2
from protos.upkeep.v1.upkeep_pb2_grpc import UpkeepServiceStub
from protos.watermark.v1 import watermark_pb2 as pb
from protos.watermark.v1.watermark_pb2_grpc import WatermarkServiceStub
from services.watermark.master_key import FILE_NAME
from services.watermark.settings import WatermarkSettings
from tests.harness.images import PNG, encoded
from tests.harness.mesh import MeshProcesses
from tests.harness.processes import wait_until
from tests.harness.subprocesses import ServiceSubprocess

IMAGE = pb.MODALITY_IMAGE


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[MeshProcesses]:
    with ExitStack() as resources:
        yield MeshProcesses(tmp_path, resources)


@pytest.fixture
def registry(processes: MeshProcesses) -> ServiceSubprocess:
    return processes.start("registry")


@pytest.fixture
def service(registry: ServiceSubprocess, processes: MeshProcesses) -> ServiceSubprocess:
    return processes.start("watermark")


def mark(service: ServiceSubprocess, request_id: str = "") -> pb.MarkImageResponse:
    request = pb.MarkImageRequest(image=PNG, request_id=request_id)
    marked: pb.MarkImageResponse = WatermarkServiceStub(service.channel()).MarkImage(request)
    return marked


def found(service: ServiceSubprocess, image: bytes) -> str:
    request = pb.DetectImageRequest(image=image, aligned_only=True)
    return str(WatermarkServiceStub(service.channel()).DetectImage(request).detection.watermark)


def test_what_was_acknowledged_survives_a_kill(service: ServiceSubprocess, registry: ServiceSubprocess) -> None:
    first = mark(service, "r")
    WatermarkServiceStub(service.channel()).RotateKey(pb.RotateKeyRequest(modality=IMAGE))
    for process in (service, registry):
        process.kill()
        process.start()

    assert found(service, first.image) == first.watermark
    assert mark(service, "r") == first
    second = mark(service)
    assert found(service, second.image) == second.watermark
    known = RegistryServiceStub(registry.channel()).ListWatermarks(registry_pb2.ListWatermarksRequest()).watermarks
    assert [(one.name, one.key_epoch) for one in known] == [(second.watermark, 1), (first.watermark, 0)]
    keys = WatermarkServiceStub(service.channel()).ListKeys(pb.ListKeysRequest(modality=IMAGE)).keys
    assert [key.epoch for key in keys] == [1, 0]
    service.stop()
    assert service._process is not None
    assert service._process.returncode in (0, -signal.SIGTERM)


def test_while_the_registry_is_away_marks_are_found_and_none_is_made(
    service: ServiceSubprocess, registry: ServiceSubprocess
) -> None:
    marked = mark(service)
    registry.kill()
    assert found(service, marked.image) == marked.watermark
    with pytest.raises(Unavailable):
        mark(service)
    requests = [pb.MarkImagesRequest(request=pb.MarkImageRequest(image=PNG))]
    (answer,) = WatermarkServiceStub(service.channel()).MarkImages(iter(requests), timeout=60)
    assert answer.failure.code == 14


def test_a_registry_that_hangs_keeps_nobody_from_finding_marks(
    registry: ServiceSubprocess, processes: MeshProcesses
) -> None:
    service = processes.process("watermark", max_at_once="1", max_waiting="1")
    try:
        service.start()
        marked = mark(service)
        registry.pause()
        with ThreadPoolExecutor(1) as pool:
            waiting = pool.submit(mark, service, "r")
            request = pb.ListKeysRequest(modality=IMAGE)
            for _ in range(3):
                assert found(service, marked.image) == marked.watermark
                assert WatermarkServiceStub(service.channel()).ListKeys(request).keys
            assert not waiting.done()
            registry.resume()
            assert found(service, waiting.result(60).image) == waiting.result().watermark
    finally:
        registry.resume()
        service.close()


def reason_of(client: WatermarkServiceStub, request: pb.DetectTextRequest) -> str:
    try:
        client.DetectText(request)
    except ResourceExhausted as error:
        return error.reason
    return ""


def test_texts_take_turns_and_too_many_at_once_are_refused(processes: MeshProcesses) -> None:
    long, short = (pb.DetectTextRequest(tokens=np.random.default_rng(0).integers(0, 1000, n)) for n in (4096, 20))
    service = processes.start("watermark", max_at_once="1", max_waiting="0")
    client = WatermarkServiceStub(service.channel())
    texts = client.DetectTexts(iter([pb.DetectTextsRequest(request=long)] * 4), timeout=120)
    wait_until(lambda: reason_of(client, short) == "TOO_MANY_CALLS", "a text to be refused")
    assert [answer.HasField("failure") for answer in texts] == [False] * 4
    assert client.DetectText(short).detection.verdict == pb.VERDICT_INCONCLUSIVE


def test_the_master_key_is_made_once_and_is_its_owners_alone(service: ServiceSubprocess) -> None:
    path = service.home / FILE_NAME
    key = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    service.stop()
    service.start()
    assert path.read_bytes() == key
    assert key.strip().decode() not in service.log


def started(home: Path, *flags: str) -> None:
    settings = load_settings(WatermarkSettings, ["--home", str(home), "--port", "0", *flags])
    with ExitStack() as owned:
        open_service(settings, owned).stop()


def test_a_lost_master_key_is_not_replaced_by_another(service: ServiceSubprocess, tmp_path: Path) -> None:
    mark(service)
    service.stop()
    path = tmp_path / FILE_NAME
    kept = path.read_bytes()
    path.unlink()
    with pytest.raises(FailedPrecondition, match="restore the master key") as caught:
        started(tmp_path)
    assert caught.value.reason == "BAD_MASTER_KEY"
    assert not path.exists()
    path.write_bytes(b"ab" * 32)
    path.chmod(0o600)
    with pytest.raises(FailedPrecondition, match="restore that key as master_key_file") as wrong:
        started(tmp_path)
    assert wrong.value.reason == "WRONG_MASTER_KEY"
    path.write_bytes(kept)
    started(tmp_path)


def test_a_master_key_file_that_is_named_is_not_made(tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="create the first one with"):
        started(tmp_path, "--master-key-file", str(tmp_path / "master"))
    assert not (tmp_path / "master").exists()


def test_a_backup_goes_with_its_master_key(
    service: ServiceSubprocess, registry: ServiceSubprocess, tmp_path: Path
) -> None:
    marked = mark(service)
    export = UpkeepServiceStub(service.channel()).ExportState(upkeep_pb2.ExportStateRequest())
    state = [upkeep_pb2.ImportStateRequest(data=answer.data) for answer in export]
    home = tmp_path / "elsewhere"
    home.mkdir()
    other = ServiceSubprocess("watermark", home, settings={"registry": registry.address})
    try:
        other.start()
        UpkeepServiceStub(other.channel()).ImportState(iter(state), timeout=60)
        with pytest.raises(FailedPrecondition) as caught:
            found(other, marked.image)
        assert caught.value.reason == "WRONG_MASTER_KEY"
        other.stop()
        (home / FILE_NAME).write_bytes((tmp_path / FILE_NAME).read_bytes())
        other.start()
        assert found(other, marked.image) == marked.watermark
    finally:
        other.close()


def test_marks_and_keys_are_in_the_audit_log(service: ServiceSubprocess, tmp_path: Path) -> None:
    marked = mark(service)
    WatermarkServiceStub(service.channel()).RotateKey(pb.RotateKeyRequest(modality=IMAGE))
    found(service, marked.image)
    records = [json.loads(line) for line in (tmp_path / "audit" / "watermark.jsonl").read_text().splitlines()]
    calls = [(record["what"].rpartition("/")[2], record["object"]) for record in records]
    assert calls == [("MarkImage", marked.watermark), ("RotateKey", "keys/image/1")]


def test_files_that_are_too_large_are_refused_as_they_come_and_as_they_would_go(
    processes: MeshProcesses,
) -> None:
    service = processes.start("watermark", max_image_bytes="50000", max_message_bytes="140000")
    stub = WatermarkServiceStub(service.channel())
    flat = encoded(np.full((1024, 1024, 3), 127, np.uint8))
    for image, says in ((PNG[:60_000], "at most 50000 are accepted"), (flat, "too many for a message")):
        with pytest.raises(InvalidArgument, match=says) as caught:
            stub.MarkImage(pb.MarkImageRequest(image=image))
        assert (caught.value.reason, caught.value.field) == ("IMAGE_TOO_LARGE", "image")
    with pytest.raises(InvalidArgument, match="at most 50000 are accepted"):
        stub.DetectImage(pb.DetectImageRequest(image=PNG[:60_000]))
