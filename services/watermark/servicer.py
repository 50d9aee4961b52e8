"""Exposes images, texts and keys as the gRPC service WatermarkService; converts between protobuf and the domain."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from common.auth import Caller, Role
from common.database import PageRequest
from common.errors import InvalidArgument, MeshError
from common.paths import without_paths
from common.proto import enum_name, enum_word, repeatable, timestamp
from common.server import caller
from deepseek.watermark.image.detector import ImageDetection
from deepseek.watermark.text.detection import Scheme, TextDetection
from deepseek.watermark.text.logits_message import logits_values
from deepseek.watermark.verdict import Verdict
from protos.watermark.v1 import watermark_pb2 as pb
from protos.watermark.v1 import watermark_pb2_grpc
from services.watermark.disclosure import DetectionQuota
from services.watermark.images import ImageWatermarks
from services.watermark.keys import Key, KeyState, KeyStore
from services.watermark.resources import watermark_name
from services.watermark.search import CombinedDetection
from services.watermark.texts import TextWatermarks, TokenStream

_SCHEMES = {
    pb.TEXT_SCHEME_UNSPECIFIED: Scheme.GUMBEL,
    pb.TEXT_SCHEME_GUMBEL: Scheme.GUMBEL,
    pb.TEXT_SCHEME_KGW: Scheme.KGW,
    pb.TEXT_SCHEME_SYNTHID: Scheme.SYNTHID,
}
_VERDICTS = {
    Verdict.MARKED: pb.VERDICT_MARKED,
    Verdict.NOT_MARKED: pb.VERDICT_NOT_MARKED,
    Verdict.INCONCLUSIVE: pb.VERDICT_INCONCLUSIVE,
}
_KEY_STATES = {
    KeyState.ACTIVE: pb.KEY_STATE_ACTIVE,
    KeyState.RETIRED: pb.KEY_STATE_RETIRED,
    KeyState.REVOKED: pb.KEY_STATE_REVOKED,
}

R = TypeVar("R")


class WatermarkServicer(watermark_pb2_grpc.WatermarkServiceServicer):
    """Implements WatermarkService; the proto documents every RPC.

    Args:
        images: Marks images, and detects marks in images.
        texts: Marks texts, and detects marks in texts.
        keys: Keys of all tenants.
        quota: Quota of detections per caller.
    """

    def __init__(self, images: ImageWatermarks, texts: TextWatermarks, keys: KeyStore, quota: DetectionQuota) -> None:
        self._images = images
        self._texts = texts
        self._keys = keys
        self._quota = quota

    def MarkImage(self, request: pb.MarkImageRequest, context: grpc.ServicerContext) -> pb.MarkImageResponse:
        return self._mark_image(request, caller(context), may_queue_freely=False)

    def MarkImages(
        self, requests: Iterator[pb.MarkImagesRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.MarkImagesResponse]:
        for request in requests:
            answer = partial(self._mark_image, request.request, caller(context), may_queue_freely=True)
            yield _answered(pb.MarkImagesResponse, answer)

    def DetectImage(self, request: pb.DetectImageRequest, context: grpc.ServicerContext) -> pb.DetectImageResponse:
        return self._detect_image(request, caller(context), may_queue_freely=False)

    def DetectImages(
        self, requests: Iterator[pb.DetectImagesRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.DetectImagesResponse]:
        for request in requests:
            answer = partial(self._detect_image, request.request, caller(context), may_queue_freely=True)
            yield _answered(pb.DetectImagesResponse, answer)

    def MarkTokens(
        self, requests: Iterator[pb.MarkTokensRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.MarkTokensResponse]:
        stream: TokenStream | None = None
        for request in requests:
            wanted = "logits" if stream else "config"
            if request.WhichOneof("message") != wanted:
                message = "the first message must contain `config`, and each later message `logits`"
                raise InvalidArgument("MISSING_FIELD", message, field=wanted)
            if stream is None:
                config = request.config
                stream = self._texts.begin(
                    caller(context).tenant,
                    _scheme(config.scheme, field="config.scheme"),
                    repeatable("MarkTokens", config, config.request_id),
                    model_version=config.model_version,
                )
                yield pb.MarkTokensResponse(watermark=stream.watermark)
            else:
                logits = request.logits
                token = stream.draw(logits.sequence, logits_values(logits), logits.tokens)
                yield pb.MarkTokensResponse(sequence=logits.sequence, token=token)

    def DetectText(self, request: pb.DetectTextRequest, context: grpc.ServicerContext) -> pb.DetectTextResponse:
        return self._detect_text(request, caller(context), may_queue_freely=False)

    def DetectTexts(
        self, requests: Iterator[pb.DetectTextsRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.DetectTextsResponse]:
        for request in requests:
            answer = partial(self._detect_text, request.request, caller(context), may_queue_freely=True)
            yield _answered(pb.DetectTextsResponse, answer)

    def ListKeys(self, request: pb.ListKeysRequest, context: grpc.ServicerContext) -> pb.ListKeysResponse:
        keys, token = self._keys.list_keys(
            caller(context).tenant,
            enum_word(pb.Modality, request.modality),
            PageRequest(request.page_size, request.page_token),
        )
        return pb.ListKeysResponse(keys=map(_key, keys), next_page_token=token)

    def RotateKey(self, request: pb.RotateKeyRequest, context: grpc.ServicerContext) -> pb.RotateKeyResponse:
        key = self._keys.rotate(
            caller(context).tenant,
            enum_word(pb.Modality, request.modality),
            repeatable("RotateKey", request, request.request_id),
        )
        return pb.RotateKeyResponse(key=_key(key))

    def RevokeKey(self, request: pb.RevokeKeyRequest, context: grpc.ServicerContext) -> pb.RevokeKeyResponse:
        key = self._keys.revoke(caller(context).tenant, enum_word(pb.Modality, request.modality), request.epoch)
        return pb.RevokeKeyResponse(key=_key(key))

    def _mark_image(self, request: pb.MarkImageRequest, who: Caller, *, may_queue_freely: bool) -> pb.MarkImageResponse:
        marked = self._images.mark(
            who.tenant,
            request.image,
            repeatable("MarkImage", request, request.request_id),
            model_version=request.model_version,
            min_psnr_db=request.min_psnr_db,
            encoding_quality=request.encoding_quality,
            may_queue_freely=may_queue_freely,
        )
        return pb.MarkImageResponse(
            image=marked.data,
            watermark=marked.watermark,
            psnr_db=marked.quality.psnr_db,
            ssim=marked.quality.ssim,
        )

    def _detect_image(
        self, request: pb.DetectImageRequest, who: Caller, *, may_queue_freely: bool
    ) -> pb.DetectImageResponse:
        self._quota.count(who)
        outcome = self._images.detect(
            who.tenant,
            request.image,
            locate=request.locate,
            aligned_only=request.aligned_only,
            exact=_owns_keys(who),
            may_queue_freely=may_queue_freely,
        )
        return pb.DetectImageResponse(detection=_image_detection(outcome, who))

    def _detect_text(
        self, request: pb.DetectTextRequest, who: Caller, *, may_queue_freely: bool
    ) -> pb.DetectTextResponse:
        self._quota.count(who)
        outcome = self._texts.detect(
            who.tenant,
            _scheme(request.scheme, field="scheme"),
            list(request.tokens),
            model_version=request.model_version,
            whole_only=request.whole_only,
            exact=_owns_keys(who),
            may_queue_freely=may_queue_freely,
        )
        return pb.DetectTextResponse(detection=_text_detection(outcome, who))


def _answered(response: Callable[..., R], answer: Callable[[], Message]) -> R:
    """Returns the response to one request of a stream. Errors go into the response, so the stream continues."""
    try:
        return response(response=answer())
    except MeshError as error:
        code = grpc.StatusCode[error.code].value[0]
        message = without_paths(error.message)
        failure = pb.Failure(code=code, reason=error.reason, message=message, field=error.field)
        if error.retry_delay_s is not None:
            failure.retry_delay.FromNanoseconds(int(error.retry_delay_s * 1e9))
        return response(failure=failure)


def _scheme(number: int, *, field: str) -> Scheme:
    if number not in _SCHEMES:
        known = ", ".join(pb.TextScheme.keys()[1:])
        raise InvalidArgument("BAD_VALUE", f"{number} is not a text scheme; use one of {known}", field=field)
    return _SCHEMES[number]  # type: ignore[index]


def _owns_keys(who: Caller) -> bool:
    """Returns whether a caller may see all evidence for a mark."""
    return who.role >= Role.ADMIN


def _image_detection(outcome: CombinedDetection[ImageDetection], who: Caller) -> pb.Detection:
    detection = _detection(outcome, who)
    if outcome.mark and (region := outcome.mark.region):
        detection.region.CopyFrom(pb.Region(left=region.left, top=region.top, right=region.right, bottom=region.bottom))
    if _owns_keys(who) and outcome.mark and (geometry := outcome.mark.geometry):
        detection.evidence.angle_degrees = math.degrees(math.remainder(geometry.angle, math.tau))
        detection.evidence.scale = math.exp(geometry.log_scale)
    return detection


def _text_detection(outcome: CombinedDetection[TextDetection], who: Caller) -> pb.Detection:
    detection = _detection(outcome, who)
    if outcome.mark:
        detection.spans.extend(
            pb.Span(start=span.start, end=span.end, watermark="" if span.id is None else watermark_name(span.id))
            for span in outcome.mark.spans
        )
    if _owns_keys(who) and outcome.detection:
        detection.evidence.num_scored = outcome.detection.num_scored
    return detection


def _detection(outcome: CombinedDetection[Any], who: Caller) -> pb.Detection:
    """Returns the fields that image and text detections share. Only callers who own the keys see the evidence."""
    detection = pb.Detection(verdict=_VERDICTS[outcome.verdict], p=outcome.p, watermark=outcome.watermark)
    if _owns_keys(who) and outcome.detection:
        detection.evidence.log_p = outcome.log_p
        detection.evidence.epoch = outcome.epoch
    return detection


def _key(key: Key) -> pb.Key:
    return pb.Key(
        name=f"keys/{key.modality}/{key.epoch}",
        modality=enum_name(pb.Modality, key.modality),
        epoch=key.epoch,
        state=_KEY_STATES[key.state],
        create_time=timestamp(key.create_us),
        revoke_time=None if key.revoke_us is None else timestamp(key.revoke_us),
    )
