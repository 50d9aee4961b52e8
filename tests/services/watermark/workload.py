"""The watermark service's part of the fault trials."""

import hashlib
import threading

from common.errors import NotFound
from protos.registry.v1 import registry_pb2, registry_pb2_grpc
from protos.watermark.v1 import watermark_pb2, watermark_pb2_grpc
from tests.faults.workload import Workload, WritingClient, answer, request_id
from tests.harness.images import PNG
from tests.harness.mesh import MeshProcesses


class Marker(WritingClient):
    """Marks images, and makes keys that it revokes."""

    def __init__(self, mesh: MeshProcesses, trial: str, enough: threading.Event) -> None:
        super().__init__(mesh, trial, enough)
        self._stub = watermark_pb2_grpc.WatermarkServiceStub(self.mesh.channel("watermark"))
        self._registry = registry_pb2_grpc.RegistryServiceStub(self.mesh.channel("registry"))
        self._before = self._marks() | self._keys().keys()
        self._marked: dict[str, bytes] = {}
        self._revoked: list[int] = []

    def work(self) -> None:
        for _ in self.rounds():
            mark = watermark_pb2.MarkImageRequest(image=PNG, request_id=request_id())
            marked = answer(self._stub.MarkImage, mark)
            self._marked[marked.watermark] = marked.image
            self.acknowledged()
            rotate = watermark_pb2.RotateKeyRequest(modality=watermark_pb2.MODALITY_TEXT, request_id=request_id())
            epoch = answer(self._stub.RotateKey, rotate).key.epoch
            self.acknowledged()
            revoke = watermark_pb2.RevokeKeyRequest(modality=watermark_pb2.MODALITY_TEXT, epoch=epoch)
            answer(self._stub.RevokeKey, revoke)
            self._revoked.append(epoch)
            self.acknowledged()

    def check(self) -> None:
        for name, image in self._marked.items():
            try:
                known = self._registry.GetWatermark(registry_pb2.GetWatermarkRequest(name=name)).watermark
            except NotFound:
                self.findings.lost_writes.append(f"{name} is gone")
                continue
            self.findings.num_reads += 1
            if known.content_sha256 != hashlib.sha256(image).hexdigest():
                self.findings.torn_reads.append(f"{name} is said to be in {known.content_sha256 or 'nothing'}")
        for name, image in list(self._marked.items())[:1]:
            look = watermark_pb2.DetectImageRequest(image=image, aligned_only=True)
            found = self._stub.DetectImage(look).detection.watermark
            if found != name:
                self.findings.lost_writes.append(f"{found or 'no mark'} is found where {name} is")
        drawn = self._marks() - self._before - self._marked.keys()
        self.findings.double_writers += [f"{name} was drawn and never told" for name in drawn]
        keys = {name: state for name, state in self._keys().items() if name not in self._before}
        if keys != dict.fromkeys(map(str, self._revoked), watermark_pb2.KEY_STATE_REVOKED):
            self.findings.lost_writes.append(f"of the keys {self._revoked}, which were revoked, there are {keys}")

    def _marks(self) -> set[str]:
        request = registry_pb2.ListWatermarksRequest(page_size=1000)
        return {mark.name for mark in self._registry.ListWatermarks(request).watermarks}

    def _keys(self) -> dict[str, int]:
        request = watermark_pb2.ListKeysRequest(modality=watermark_pb2.MODALITY_TEXT, page_size=1000)
        return {str(key.epoch): key.state for key in self._stub.ListKeys(request).keys}


class WatermarkWorkload(Workload):
    """Watermarks and keys; nothing needs to be there before."""

    def __init__(self, mesh: MeshProcesses) -> None:
        pass

    def clients(self, mesh: MeshProcesses, trial: str, enough: threading.Event) -> list[WritingClient]:
        return [Marker(mesh, trial, enough)]


WORKLOAD = WatermarkWorkload
