"""ArtifactService over gRPC, in a real server."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from common.artifacts import ArtifactStore, open_store
from common.artifacts.blob import CHUNK_BYTES, blob_key
from common.artifacts.servicer import ArtifactServicer
from common.channel import open_channel
from common.config import ServiceSettings
from common.errors import DataLoss, InvalidArgument, NotFound
from common.names import DEFAULT_TENANT
from common.server import GrpcService, make_server
from common.service import ARTIFACT_CONTRACT, Service
from protos.artifact.v1 import artifact_pb2, artifact_pb2_grpc

CONTENT = bytes(range(256)) * (2 * CHUNK_BYTES // 256) + b"the end"


class Settings(ServiceSettings):
    """Settings of a service that only hands out blobs."""

    service: ClassVar[Service] = Service("blobs", ARTIFACT_CONTRACT, 0, 0)


@pytest.fixture
def store(tmp_path: Path) -> ArtifactStore:
    return open_store((tmp_path / "store").as_uri())


@pytest.fixture
def sha256(store: ArtifactStore) -> str:
    return store.put(DEFAULT_TENANT, CONTENT, "application/octet-stream").sha256


@pytest.fixture
def stub(store: ArtifactStore, tmp_path: Path) -> Iterator[artifact_pb2_grpc.ArtifactServiceStub]:
    servicer = ArtifactServicer(store, 64 << 20)
    hosted = GrpcService(ARTIFACT_CONTRACT, artifact_pb2_grpc.add_ArtifactServiceServicer_to_server, servicer)
    with (
        make_server(Settings(port=0, home=tmp_path), [hosted], ready=lambda: True) as server,
        open_channel(server.address, retry=False) as channel,
    ):
        yield artifact_pb2_grpc.ArtifactServiceStub(channel)


def read(stub: artifact_pb2_grpc.ArtifactServiceStub, sha256: str, offset: int = 0) -> list[bytes]:
    request = artifact_pb2.ReadArtifactRequest(sha256=sha256, offset=offset)
    return [part.data for part in stub.ReadArtifact(request)]


def test_a_blob_comes_in_pieces(stub: artifact_pb2_grpc.ArtifactServiceStub, sha256: str) -> None:
    parts = read(stub, sha256)
    assert b"".join(parts) == CONTENT
    assert 0 < min(map(len, parts)) <= max(map(len, parts)) <= 1 << 20


@pytest.mark.parametrize("offset", [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, len(CONTENT) - 1, len(CONTENT)])
def test_a_reader_goes_on_anywhere(stub: artifact_pb2_grpc.ArtifactServiceStub, sha256: str, offset: int) -> None:
    assert b"".join(read(stub, sha256, offset)) == CONTENT[offset:]


@pytest.mark.parametrize("offset", [-1, len(CONTENT) + 1])
def test_an_offset_outside_is_refused(stub: artifact_pb2_grpc.ArtifactServiceStub, sha256: str, offset: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(stub, sha256, offset)
    assert (caught.value.reason, caught.value.violations[0].field) == ("BAD_VALUE", "offset")


@pytest.mark.parametrize("bad", ["", "../../etc/passwd", "A" * 64, "0" * 63])
def test_what_is_no_digest_is_refused(stub: artifact_pb2_grpc.ArtifactServiceStub, bad: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read(stub, bad)
    assert (caught.value.reason, caught.value.violations[0].field) == ("BAD_DIGEST", "sha256")


def test_an_unknown_blob_is_not_found(stub: artifact_pb2_grpc.ArtifactServiceStub) -> None:
    with pytest.raises(NotFound) as caught:
        read(stub, hashlib.sha256(b"another").hexdigest())
    assert caught.value.reason == "BLOB_NOT_FOUND"


@pytest.mark.parametrize("offset", [0, len(CONTENT) - 3])
def test_a_damaged_blob_does_not_end_well(
    stub: artifact_pb2_grpc.ArtifactServiceStub, sha256: str, tmp_path: Path, offset: int
) -> None:
    path = tmp_path / "store" / blob_key(DEFAULT_TENANT, sha256)
    path.chmod(0o600)
    path.write_bytes(b"X" + CONTENT[1:])
    with pytest.raises(DataLoss) as caught:
        read(stub, sha256, offset)
    assert caught.value.reason == "BLOB_DAMAGED"
