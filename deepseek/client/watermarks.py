"""Client of a mesh's watermarks. Only the watermark service has the keys, so it does all marking and detection."""

from __future__ import annotations

import hashlib
import queue
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from common.errors import Unavailable
from common.scalars import whole_number
from deepseek.client.connection import Connection
from deepseek.client.names import version_name
from deepseek.client.pages import pages
from deepseek.watermark.text.logits_message import logits_message
from deepseek.watermark.text.tokens import check_logits, check_tokens
from protos.registry.v1 import registry_pb2, registry_pb2_grpc
from protos.watermark.v1 import watermark_pb2, watermark_pb2_grpc

DEADLINE_S = 120.0


class Watermarks:
    """Client of a mesh's watermarks, available as `Mesh.watermarks`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._stub = watermark_pb2_grpc.WatermarkServiceStub(connection.channel("watermark"))

    def mark_image(
        self, image: bytes, *, model_version: str = "", min_psnr_db: float = 0, encoding_quality: int = 0
    ) -> watermark_pb2.MarkImageResponse:
        """Marks an image in PNG, JPEG or WebP format.

        Args:
            image: Content of the image file.
            model_version: Version that generated the image, e.g. `painter:3`; empty if no registered version did.
            min_psnr_db: Minimum PSNR of the marked image in dB; 0 means the default of the service.
            encoding_quality: Encoding quality of the marked image if it is a JPEG or WebP file, 1 to 100; 0 means the
                default of the service.

        Raises:
            MeshError: Any error that `WatermarkService.MarkImage` documents.
        """
        request = watermark_pb2.MarkImageRequest(
            image=image,
            model_version=self._version(model_version),
            min_psnr_db=min_psnr_db,
            encoding_quality=encoding_quality,
            request_id=uuid.uuid4().hex,
        )
        response: watermark_pb2.MarkImageResponse = self._stub.MarkImage(request, timeout=DEADLINE_S)
        return response

    def detect_image(self, image: bytes, *, locate: bool = True, aligned_only: bool = False) -> watermark_pb2.Detection:
        """Searches an image in PNG, JPEG or WebP format for a mark.

        Args:
            image: Content of the image file.
            locate: Whether to return the region of the mark.
            aligned_only: Whether to skip the search for marks in rotated or cropped images. Detection is then five
                times as fast, and its verdict is never "not marked".
        """
        request = watermark_pb2.DetectImageRequest(image=image, locate=locate, aligned_only=aligned_only)
        response: watermark_pb2.DetectImageResponse = self._stub.DetectImage(request, timeout=DEADLINE_S)
        return response.detection

    def detect_text(self, tokens: Sequence[int], *, model_version: str = "") -> watermark_pb2.Detection:
        """Searches a text for a mark, given the text's tokens.

        Args:
            tokens: Token ids of the text, as a list, array or tensor of integers, or as a batch of one such sequence.
                They must be computed with the tokenizer of the model that may have generated the text.
            model_version: Version to which this tokenizer belongs, e.g. `reference:3`. If it is empty, text without a
                mark is reported as inconclusive, never as not marked.
        """
        request = watermark_pb2.DetectTextRequest(
            tokens=check_tokens(tokens), model_version=self._version(model_version)
        )
        response: watermark_pb2.DetectTextResponse = self._stub.DetectText(request, timeout=DEADLINE_S)
        return response.detection

    @contextmanager
    def drawing(self, *, model_version: str = "", deadline_s: float = 3600) -> Iterator[TokenStream]:
        """Yields an open stream that draws marked tokens, and closes the stream when the `with` block ends.

        All tokens of one stream carry the same watermark id.

        Args:
            model_version: Version that computes the logits, e.g. `reference:3`; empty if the model is not registered.
            deadline_s: Maximum duration of the stream, in seconds.
        """
        requests: queue.SimpleQueue[watermark_pb2.MarkTokensRequest | None] = queue.SimpleQueue()
        config = watermark_pb2.MarkTokensConfig(model_version=self._version(model_version), request_id=uuid.uuid4().hex)
        requests.put(watermark_pb2.MarkTokensRequest(config=config))
        answers = self._stub.MarkTokens(iter(requests.get, None), timeout=deadline_s)
        try:
            yield TokenStream(_next(answers).watermark, requests, answers)
        finally:
            requests.put(None)

    def get(self, name: str) -> registry_pb2.Watermark:
        """Returns the registry's record of a watermark, which includes its model version and the content's digest.

        Args:
            name: `watermarks/<id>`.
        """
        request = registry_pb2.GetWatermarkRequest(name=name)
        response: registry_pb2.GetWatermarkResponse = self._registry().GetWatermark(request)
        return response.watermark

    def set_content(self, name: str, content: bytes) -> registry_pb2.Watermark:
        """Registers the digest of a marked text. The watermark service itself registers the digests of marked images.

        Args:
            name: `watermarks/<id>`.
            content: The complete text as published. After the first call, calls with other content fail.
        """
        digest = hashlib.sha256(content).hexdigest()
        request = registry_pb2.SetWatermarkContentRequest(
            name=name, content_sha256=digest, content_size_bytes=len(content)
        )
        response: registry_pb2.SetWatermarkContentResponse = self._registry().SetWatermarkContent(request)
        return response.watermark

    def _version(self, text: str) -> str:
        """Returns the name of a model version, given any form that users write; empty if the text is empty."""
        if not text:
            return ""
        name = version_name(text, "models", field="model_version")
        if name.rpartition("/versions/")[2].isdigit():
            return name
        response = self._registry().GetModelVersion(registry_pb2.GetModelVersionRequest(name=name))
        return str(response.model_version.name)

    def _registry(self) -> registry_pb2_grpc.RegistryServiceStub:
        return registry_pb2_grpc.RegistryServiceStub(self._connection.channel("registry"))

    def keys(self, modality: watermark_pb2.Modality) -> Iterator[watermark_pb2.Key]:
        """Yields the tenant's keys for a modality, newest first."""
        for page in pages(self._stub.ListKeys, watermark_pb2.ListKeysRequest(modality=modality)):
            yield from page.keys

    def rotate_key(self, modality: watermark_pb2.Modality) -> watermark_pb2.Key:
        """Creates a new key, which is used for marking from now on. Earlier keys are still used for detection."""
        request = watermark_pb2.RotateKeyRequest(modality=modality, request_id=uuid.uuid4().hex)
        response: watermark_pb2.RotateKeyResponse = self._stub.RotateKey(request)
        return response.key

    def revoke_key(self, modality: watermark_pb2.Modality, epoch: int) -> watermark_pb2.Key:
        """Revokes a key permanently. Content marked with this key is no longer detected."""
        request = watermark_pb2.RevokeKeyRequest(modality=modality, epoch=epoch)
        response: watermark_pb2.RevokeKeyResponse = self._stub.RevokeKey(request)
        return response.key


class TokenStream:
    """An open stream of marked tokens. Not thread-safe.

    Attributes:
        watermark: Name of the watermark that the tokens carry, `watermarks/<id>`.
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
            logits: Next-token logits of one sequence, one per candidate token, as a one-dimensional array, tensor or
                list. Temperature, top-k and similar steps must have been applied to them already.
            tokens: Ids of the candidate tokens, in the order of the logits. If empty, the ids are 0, 1, 2 etc.
            sequence: Number of the sequence for which the token is drawn.

        Raises:
            MeshError: Any error that `MarkTokens` documents.
            Unavailable: STREAM_ENDED if the service has ended the stream.
        """
        message = logits_message(
            check_logits(logits, field="logits.values"),
            tokens=check_tokens(tokens, field="logits.tokens"),
            sequence=whole_number(sequence, "logits.sequence"),
        )
        self._requests.put(watermark_pb2.MarkTokensRequest(logits=message))
        return _next(self._answers).token


def _next(answers: Iterator[watermark_pb2.MarkTokensResponse]) -> watermark_pb2.MarkTokensResponse:
    """Returns the next response of the stream.

    If there is none, this function raises Unavailable, because a StopIteration could silently end a loop in the caller.
    """
    for answer in answers:
        return answer
    raise Unavailable("STREAM_ENDED", "the service ended the stream before responding; open another stream")
