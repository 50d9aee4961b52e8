"""Marks in images and text, put in and found by the watermark service, which alone has the keys."""

from __future__ import annotations

import hashlib
import queue
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from common.errors import Unavailable
from common.scalars import whole_number
from deepseek.client.pages import pages
from deepseek.watermark.text.messages import logits_message
from deepseek.watermark.text.tokens import check_logits, check_tokens
from protos.registry.v1 import registry_pb2, registry_pb2_grpc
from protos.watermark.v1 import watermark_pb2, watermark_pb2_grpc

if TYPE_CHECKING:
    from deepseek.client.mesh import Mesh

DEADLINE_S = 120.0


class Watermarks:
    """Reached as `Mesh.watermarks`."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._stub = watermark_pb2_grpc.WatermarkServiceStub(mesh.channel("watermark"))

    def mark_image(
        self, image: bytes, *, model_version: str = "", min_psnr_db: float = 0, encoding_quality: int = 0
    ) -> watermark_pb2.MarkImageResponse:
        """Marks a PNG, JPEG or WebP file; the proto tells what may go wrong."""
        request = watermark_pb2.MarkImageRequest(
            image=image,
            model_version=model_version,
            min_psnr_db=min_psnr_db,
            encoding_quality=encoding_quality,
            request_id=uuid.uuid4().hex,
        )
        response: watermark_pb2.MarkImageResponse = self._stub.MarkImage(request, timeout=DEADLINE_S)
        return response

    def detect_image(self, image: bytes, *, locate: bool = True) -> watermark_pb2.Detection:
        """Looks for a mark in a PNG, JPEG or WebP file."""
        request = watermark_pb2.DetectImageRequest(image=image, locate=locate)
        response: watermark_pb2.DetectImageResponse = self._stub.DetectImage(request, timeout=DEADLINE_S)
        return response.detection

    def detect_text(self, tokens: Sequence[int], *, model_version: str = "") -> watermark_pb2.Detection:
        """Looks for a mark in tokens, by the tokeniser that they were drawn with.

        Args:
            tokens: Tokens of the text: a list, array or tensor of integers, or a batch of one.
            model_version: `models/<id>/versions/<n>` whose tokeniser's they are; without it nothing is said to be not
                marked.
        """
        request = watermark_pb2.DetectTextRequest(tokens=check_tokens(tokens), model_version=model_version)
        response: watermark_pb2.DetectTextResponse = self._stub.DetectText(request, timeout=DEADLINE_S)
        return response.detection

    @contextmanager
    def drawing(self, *, model_version: str = "", deadline_s: float = 3600) -> Iterator[TokenStream]:
        """A stream of marked tokens, all under one id, open until the block ends.

        Args:
            model_version: `models/<id>/versions/<n>` whose logits will come; empty if it is none of the registry's.
            deadline_s: Seconds that the stream may last.
        """
        requests: queue.SimpleQueue[watermark_pb2.MarkTokensRequest | None] = queue.SimpleQueue()
        config = watermark_pb2.MarkTokensConfig(model_version=model_version, request_id=uuid.uuid4().hex)
        requests.put(watermark_pb2.MarkTokensRequest(config=config))
        answers = self._stub.MarkTokens(iter(requests.get, None), timeout=deadline_s)
        try:
            yield TokenStream(_next(answers).watermark, requests, answers)
        finally:
            requests.put(None)

    def get(self, name: str) -> registry_pb2.Watermark:
        """What the registry knows of `watermarks/<id>`: the model version that made the content, and its digest."""
        request = registry_pb2.GetWatermarkRequest(name=name)
        response: registry_pb2.GetWatermarkResponse = self._registry().GetWatermark(request)
        return response.watermark

    def set_content(self, name: str, content: bytes) -> registry_pb2.Watermark:
        """Tells the registry the digest of a text that was drawn, once; of an image the service does.

        Args:
            name: `watermarks/<id>`.
            content: The whole text, as it goes out.
        """
        digest = hashlib.sha256(content).hexdigest()
        request = registry_pb2.SetWatermarkContentRequest(
            name=name, content_sha256=digest, content_size_bytes=len(content)
        )
        response: registry_pb2.SetWatermarkContentResponse = self._registry().SetWatermarkContent(request)
        return response.watermark

    def _registry(self) -> registry_pb2_grpc.RegistryServiceStub:
        return registry_pb2_grpc.RegistryServiceStub(self._mesh.channel("registry"))

    def keys(self, modality: watermark_pb2.Modality) -> Iterator[watermark_pb2.Key]:
        """A modality's keys, newest first."""
        for page in pages(self._stub.ListKeys, watermark_pb2.ListKeysRequest(modality=modality)):
            yield from page.keys

    def rotate_key(self, modality: watermark_pb2.Modality) -> watermark_pb2.Key:
        """Makes a new key, by which is marked from now on."""
        request = watermark_pb2.RotateKeyRequest(modality=modality, request_id=uuid.uuid4().hex)
        response: watermark_pb2.RotateKeyResponse = self._stub.RotateKey(request)
        return response.key

    def revoke_key(self, modality: watermark_pb2.Modality, epoch: int) -> watermark_pb2.Key:
        """Takes a key out of use, for good."""
        request = watermark_pb2.RevokeKeyRequest(modality=modality, epoch=epoch)
        response: watermark_pb2.RevokeKeyResponse = self._stub.RevokeKey(request)
        return response.key


class TokenStream:
    """An open stream of tokens. Not thread-safe.

    Attributes:
        watermark: `watermarks/<id>` that the tokens carry.
    """

    def __init__(
        self,
        watermark: str,
        requests: queue.SimpleQueue[watermark_pb2.MarkTokensRequest | None],
        answers: Iterator[watermark_pb2.MarkTokensResponse],
    ) -> None:
        self.watermark = watermark
        self._requests = requests
        self._answers = answers

    def draw(self, logits: npt.NDArray[np.floating[Any]], *, tokens: Sequence[int] = (), sequence: int = 0) -> int:
        """Draws the next token of a sequence.

        Args:
            logits: (tokens,), after temperature, top-k and the like; an array, tensor or list.
            tokens: Which tokens they are of; all from 0 on by default.
            sequence: Which sequence goes on.

        Raises:
            MeshError: As MarkTokens documents.
            Unavailable: STREAM_ENDED.
        """
        message = logits_message(
            check_logits(logits, field="logits.values"),
            tokens=check_tokens(tokens, field="logits.tokens"),
            sequence=whole_number(sequence, "logits.sequence"),
        )
        self._requests.put(watermark_pb2.MarkTokensRequest(logits=message))
        return _next(self._answers).token


def _next(answers: Iterator[watermark_pb2.MarkTokensResponse]) -> watermark_pb2.MarkTokensResponse:
    """The next answer; a stream that ends without one must not look to callers like their own iterator's end."""
    for answer in answers:
        return answer
    raise Unavailable("STREAM_ENDED", "the service ended the stream before it answered; begin another")
