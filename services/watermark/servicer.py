"""WatermarkService over images, texts and keys: protobuf to domain and back, nothing else."""

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import grpc
from google.protobuf.message import Message

from common.auth import Caller, Role
from common.errors import InvalidArgument, MeshError
from common.paths import without_paths
from common.server import caller
from deepseek.watermark.image.detector import ImageDetection
from deepseek.watermark.text.detection import Scheme, TextDetection
from deepseek.watermark.text.messages import logits_values
from deepseek.watermark.verdict import Verdict
from protos.watermark.v1 import watermark_pb2 as pb
from protos.watermark.v1 import watermark_pb2_grpc
from services.watermark.images import Images
from services.watermark.keys import Key, Keys, KeyState
from services.watermark.oracle import Questions
from services.watermark.search import Outcome
from services.watermark.texts import Texts, TokenStream
from services.watermark.watermarks import watermark_name

_MODALITIES = {pb.MODALITY_TEXT: "text", pb.MODALITY_IMAGE: "image"}
_MODALITY_NUMBERS = {name: number for number, name in _MODALITIES.items()}
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
    """Answers WatermarkService; the proto documents every call.

    Args:
        images: Marks and finds.
        texts: The same.
        keys: Of all tenants.
        questions: Counts detections.
    """

    def __init__(self, images: Images, texts: Texts, keys: Keys, questions: Questions) -> None:
        self._images = images
        self._texts = texts
        self._keys = keys
        self._questions = questions

    def MarkImage(self, request: pb.MarkImageRequest, context: grpc.ServicerContext) -> pb.MarkImageResponse:
        return self._mark_image(request, caller(context), patient=False)

    def MarkImages(
        self, requests: Iterator[pb.MarkImagesRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.MarkImagesResponse]:
        for request in requests:
            answer = partial(self._mark_image, request.request, caller(context), patient=True)
            yield _answered(pb.MarkImagesResponse, answer)

    def DetectImage(self, request: pb.DetectImageRequest, context: grpc.ServicerContext) -> pb.DetectImageResponse:
        return self._detect_image(request, caller(context), patient=False)

    def DetectImages(
        self, requests: Iterator[pb.DetectImagesRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.DetectImagesResponse]:
        for request in requests:
            answer = partial(self._detect_image, request.request, caller(context), patient=True)
            yield _answered(pb.DetectImagesResponse, answer)

    def MarkTokens(
        self, requests: Iterator[pb.MarkTokensRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.MarkTokensResponse]:
        stream: TokenStream | None = None
        for request in requests:
            wanted = "logits" if stream else "config"
            if request.WhichOneof("message") != wanted:
                message = "the first message carries `config`, and each later one `logits`"
                raise InvalidArgument("MISSING_FIELD", message, field=wanted)
            if stream is None:
                config = request.config
                stream = self._texts.begin(
                    caller(context).tenant,
                    _scheme(config.scheme, field="config.scheme"),
                    model_version=config.model_version,
                    request_id=config.request_id,
                    body=_body(config),
                )
                yield pb.MarkTokensResponse(watermark=stream.watermark)
            else:
                logits = request.logits
                token = stream.draw(logits.sequence, logits_values(logits), logits.tokens)
                yield pb.MarkTokensResponse(sequence=logits.sequence, token=token)

    def DetectText(self, request: pb.DetectTextRequest, context: grpc.ServicerContext) -> pb.DetectTextResponse:
        return self._detect_text(request, caller(context), patient=False)

    def DetectTexts(
        self, requests: Iterator[pb.DetectTextsRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.DetectTextsResponse]:
        for request in requests:
            answer = partial(self._detect_text, request.request, caller(context), patient=True)
            yield _answered(pb.DetectTextsResponse, answer)

    def ListKeys(self, request: pb.ListKeysRequest, context: grpc.ServicerContext) -> pb.ListKeysResponse:
        keys, token = self._keys.list_keys(
            caller(context).tenant, _modality(request.modality), size=request.page_size, token=request.page_token
        )
        return pb.ListKeysResponse(keys=map(_key, keys), next_page_token=token)

    def RotateKey(self, request: pb.RotateKeyRequest, context: grpc.ServicerContext) -> pb.RotateKeyResponse:
        key = self._keys.rotate(
            caller(context).tenant, _modality(request.modality), request_id=request.request_id, body=_body(request)
        )
        return pb.RotateKeyResponse(key=_key(key))

    def RevokeKey(self, request: pb.RevokeKeyRequest, context: grpc.ServicerContext) -> pb.RevokeKeyResponse:
        key = self._keys.revoke(caller(context).tenant, _modality(request.modality), request.epoch)
        return pb.RevokeKeyResponse(key=_key(key))

    def _mark_image(self, request: pb.MarkImageRequest, who: Caller, *, patient: bool) -> pb.MarkImageResponse:
        marked = self._images.mark(
            who.tenant,
            request.image,
            model_version=request.model_version,
            min_psnr_db=request.min_psnr_db,
            encoding_quality=request.encoding_quality,
            request_id=request.request_id,
            body=_body(request),
            patient=patient,
        )
        return pb.MarkImageResponse(
            image=marked.data,
            watermark=marked.watermark,
            psnr_db=marked.quality.psnr_db,
            ssim=marked.quality.ssim,
        )

    def _detect_image(self, request: pb.DetectImageRequest, who: Caller, *, patient: bool) -> pb.DetectImageResponse:
        self._questions.count(who)
        outcome = self._images.detect(
            who.tenant,
            request.image,
            locate=request.locate,
            aligned_only=request.aligned_only,
            exact=_owns_keys(who),
            patient=patient,
        )
        return pb.DetectImageResponse(detection=_image_detection(outcome, who))

    def _detect_text(self, request: pb.DetectTextRequest, who: Caller, *, patient: bool) -> pb.DetectTextResponse:
        self._questions.count(who)
        outcome = self._texts.detect(
            who.tenant,
            _scheme(request.scheme, field="scheme"),
            list(request.tokens),
            model_version=request.model_version,
            whole_only=request.whole_only,
            exact=_owns_keys(who),
            patient=patient,
        )
        return pb.DetectTextResponse(detection=_text_detection(outcome, who))


def _answered(response: Callable[..., R], answer: Callable[[], Message]) -> R:
    """The response to one request of a stream, which goes on whatever is wrong with it."""
    try:
        return response(response=answer())
    except MeshError as error:
        code = grpc.StatusCode[error.code].value[0]
        message = without_paths(error.message)
        failure = pb.Failure(code=code, reason=error.reason, message=message, field=error.field)
        if error.retry_delay_s is not None:
            failure.retry_delay.FromNanoseconds(int(error.retry_delay_s * 1e9))
        return response(failure=failure)


def _body(request: Message) -> bytes:
    return request.SerializeToString(deterministic=True)


def _modality(number: int) -> str:
    # An unset or unknown one is refused by the domain.
    return _MODALITIES.get(number, "")  # type: ignore[call-overload, no-any-return]


def _scheme(number: int, *, field: str) -> Scheme:
    if number not in _SCHEMES:
        known = ", ".join(pb.TextScheme.keys()[1:])
        raise InvalidArgument("BAD_VALUE", f"{number} is no scheme; there are {known}", field=field)
    return _SCHEMES[number]  # type: ignore[index]


def _owns_keys(who: Caller) -> bool:
    """Whether a caller may see all that is known of a mark."""
    return who.role >= Role.ADMIN


def _image_detection(outcome: Outcome[ImageDetection], who: Caller) -> pb.Detection:
    detection = _detection(outcome, who)
    if outcome.mark and (region := outcome.mark.region):
        detection.region.CopyFrom(pb.Region(left=region.left, top=region.top, right=region.right, bottom=region.bottom))
    if _owns_keys(who) and outcome.mark and (geometry := outcome.mark.geometry):
        detection.evidence.angle_degrees = math.degrees(math.remainder(geometry.angle, math.tau))
        detection.evidence.scale = math.exp(geometry.log_scale)
    return detection


def _text_detection(outcome: Outcome[TextDetection], who: Caller) -> pb.Detection:
    detection = _detection(outcome, who)
    if outcome.mark:
        detection.spans.extend(
            pb.Span(start=span.start, end=span.end, watermark="" if span.id is None else watermark_name(span.id))
            for span in outcome.mark.spans
        )
    if _owns_keys(who) and outcome.detection:
        detection.evidence.num_scored = outcome.detection.num_scored
    return detection


def _detection(outcome: Outcome[Any], who: Caller) -> pb.Detection:
    """What all kinds of content have in common; only those to whom the keys belong see how sure it is."""
    detection = pb.Detection(verdict=_VERDICTS[outcome.verdict], p=outcome.p, watermark=outcome.watermark)
    if _owns_keys(who) and outcome.detection:
        detection.evidence.log_p = outcome.log_p
        detection.evidence.epoch = outcome.epoch
    return detection


def _key(key: Key) -> pb.Key:
    message = pb.Key(
        name=f"keys/{key.modality}/{key.epoch}",
        modality=_MODALITY_NUMBERS[key.modality],
        epoch=key.epoch,
        state=_KEY_STATES[key.state],
    )
    message.create_time.FromMicroseconds(key.create_us)
    if key.revoke_us is not None:
        message.revoke_time.FromMicroseconds(key.revoke_us)
    return message
