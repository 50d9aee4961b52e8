"""Tokens over a real server, drawn from a small model, with a real registry."""

from collections.abc import Sequence
from queue import Queue
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pytest

from common.auth import Role
from common.errors import FailedPrecondition, InvalidArgument, MeshError, NotFound, ResourceExhausted
from deepseek.watermark.text.detection import MAX_TOKEN, MAX_TOKENS
from protos.registry.v1 import registry_pb2
from protos.watermark.v1 import watermark_pb2 as pb
from protos.watermark.v1.watermark_pb2_grpc import WatermarkServiceStub
from services.watermark.texts import MAX_SEQUENCES
from tests.services.watermark.conftest import WatermarkMesh, model_version

VOCABULARY = 300
TEXT = pb.MODALITY_TEXT


def logits(token: int) -> npt.NDArray[np.float32]:
    """A model: what may follow a token."""
    return np.random.default_rng(token).normal(0, 2, VOCABULARY).astype(np.float32)


class Drawing:
    """A stream that is answered step by step, as a model needs it."""

    def __init__(self, client: WatermarkServiceStub, **config: Any) -> None:
        self._requests: Queue[pb.MarkTokensRequest | None] = Queue()
        self._requests.put(pb.MarkTokensRequest(config=pb.MarkTokensConfig(**config)))
        self._answers = client.MarkTokens(iter(self._requests.get, None), timeout=120)
        self.watermark: str = next(self._answers).watermark

    def draw(self, values: Sequence[float] | npt.NDArray[np.float32], tokens: Sequence[int] = (), of: int = 0) -> int:
        self._requests.put(pb.MarkTokensRequest(logits=pb.Logits(sequence=of, values=values, tokens=tokens)))
        answer = next(self._answers)
        assert (answer.sequence, answer.watermark) == (of, "")
        return int(answer.token)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._requests.put(None)


def asked(client: WatermarkServiceStub, config: dict[str, Any], *messages: pb.Logits) -> list[pb.MarkTokensResponse]:
    requests = [pb.MarkTokensRequest(config=pb.MarkTokensConfig(**config))]
    requests += [pb.MarkTokensRequest(logits=one) for one in messages]
    return list(client.MarkTokens(iter(requests), timeout=60))


def written(client: WatermarkServiceStub, num_tokens: int, num_sequences: int = 1, **config: Any) -> tuple[str, Any]:
    """The watermark, and the tokens of each sequence."""
    sequences: list[list[int]] = [[] for _ in range(num_sequences)]
    messages = [
        pb.Logits(sequence=i, values=logits(1000 * i + step))
        for step in range(num_tokens)
        for i in range(num_sequences)
    ]
    first, *rest = asked(client, config, *messages)
    for answer in rest:
        sequences[answer.sequence].append(answer.token)
    return first.watermark, sequences


def detect(client: WatermarkServiceStub, tokens: Sequence[int], **fields: Any) -> pb.Detection:
    detection: pb.Detection = client.DetectText(pb.DetectTextRequest(tokens=tokens, **fields)).detection
    return detection


def test_every_sequence_of_a_stream_carries_its_id(
    mesh: WatermarkMesh, tenant: str, client: WatermarkServiceStub
) -> None:
    watermark, sequences = written(client, 300, 2)
    for tokens in sequences:
        detection = detect(client, tokens)
        assert (detection.verdict, detection.watermark) == (pb.VERDICT_MARKED, watermark)
        assert detection.spans[0].end > 250
        assert {span.watermark for span in detection.spans} <= {watermark, ""}
        assert detection.evidence.num_scored > 250
    assert sequences[0] != sequences[1]
    known = mesh.marks(tenant).GetWatermark(registry_pb2.GetWatermarkRequest(name=watermark)).watermark
    assert (known.modality, known.content_sha256) == (TEXT, "")


def test_the_id_is_known_before_the_first_token(mesh: WatermarkMesh, tenant: str, client: WatermarkServiceStub) -> None:
    text = [7]
    with Drawing(client) as drawing:
        assert mesh.marks(tenant).GetWatermark(registry_pb2.GetWatermarkRequest(name=drawing.watermark))
        for _ in range(250):
            text.append(drawing.draw(logits(text[-1])))
    assert detect(client, text[1:]).watermark == drawing.watermark


def test_logits_of_a_few_tokens_draw_these_alone_and_mark_as_well(client: WatermarkServiceStub) -> None:
    text = [7]
    with Drawing(client) as drawing:
        for _ in range(250):
            dense = logits(text[-1])
            likeliest = np.argsort(-dense)[:40].tolist()
            text.append(drawing.draw(dense[likeliest], likeliest))
            assert text[-1] in likeliest
        assert detect(client, text[1:]).watermark == drawing.watermark
        assert drawing.draw([0.0], [MAX_TOKEN]) == MAX_TOKEN
        assert drawing.draw([0.0, -np.inf], [5, 6]) == 5


@pytest.mark.parametrize("scheme", [pb.TEXT_SCHEME_KGW, pb.TEXT_SCHEME_SYNTHID])
def test_other_schemes_are_found_and_carry_no_id(client: WatermarkServiceStub, scheme: pb.TextScheme) -> None:
    watermark, (tokens,) = written(client, 400, scheme=scheme)
    assert watermark
    detection = detect(client, tokens, scheme=scheme)
    assert (detection.verdict, detection.watermark) == (pb.VERDICT_MARKED, "")
    assert detect(client, tokens, whole_only=True).verdict == pb.VERDICT_INCONCLUSIVE  # by the default scheme


def test_text_without_a_mark_is_not_marked_and_without_tokens_says_nothing(
    mesh: WatermarkMesh, tenant: str, client: WatermarkServiceStub
) -> None:
    other_mark, (tokens,) = written(mesh.client(f"{tenant}-other"), 300)
    assert other_mark
    version = model_version(mesh, tenant)
    detection = detect(client, tokens, model_version=version)
    assert detection.verdict in (pb.VERDICT_NOT_MARKED, pb.VERDICT_INCONCLUSIVE)  # by chance
    assert not detection.watermark
    assert not detection.spans
    assert detect(client, [], model_version=version).verdict == pb.VERDICT_INCONCLUSIVE


def test_only_of_a_known_tokenisers_tokens_it_is_said_that_there_is_no_mark(
    mesh: WatermarkMesh, tenant: str, client: WatermarkServiceStub
) -> None:
    tokens = np.random.default_rng(0).integers(0, VOCABULARY, 400).tolist()
    version = model_version(mesh, tenant)
    known, unknown = (detect(client, tokens, model_version=name) for name in (version, ""))
    assert (known.verdict, unknown.verdict) == (pb.VERDICT_NOT_MARKED, pb.VERDICT_INCONCLUSIVE)
    assert known.p == unknown.p == 1
    # A mark tells the truth, whoever says that it is another model's.
    watermark, (marked,) = written(client, 300)
    found = detect(client, marked, model_version=version)
    assert (found.verdict, found.watermark) == (pb.VERDICT_MARKED, watermark)


@pytest.mark.parametrize(
    ("name", "error", "reason"),
    [
        ("models/none/versions/1", NotFound, "MODEL_VERSION_NOT_FOUND"),
        ("models/m/versions/7", NotFound, "MODEL_VERSION_NOT_FOUND"),
        ("models/m/versions/latest", InvalidArgument, "BAD_NAME"),
        ("datasets/m/versions/1", InvalidArgument, "BAD_NAME"),
        ("?", InvalidArgument, "BAD_NAME"),
    ],
)
def test_tokens_are_of_a_version_that_there_is(
    mesh: WatermarkMesh, tenant: str, client: WatermarkServiceStub, name: str, error: type[MeshError], reason: str
) -> None:
    model_version(mesh, tenant)
    with pytest.raises(error) as caught:
        detect(client, [1, 2, 3], model_version=name)
    assert (caught.value.reason, caught.value.field) == (reason, "model_version")


def test_a_version_of_another_tenant_is_none(mesh: WatermarkMesh, tenant: str, client: WatermarkServiceStub) -> None:
    version = model_version(mesh, f"{tenant}-other")
    with pytest.raises(NotFound):
        detect(client, [1, 2, 3], model_version=version)


def test_only_an_admin_learns_to_the_token_where_a_mark_is(
    mesh: WatermarkMesh, tenant: str, client: WatermarkServiceStub
) -> None:
    _, (tokens,) = written(client, 301)
    around = np.random.default_rng(0).integers(0, VOCABULARY, 200).tolist()
    text = [*around[:83], *tokens, *around[83:]]
    (exact,) = detect(client, text).spans
    (rounded,) = detect(mesh.client(tenant, Role.READER), text).spans
    assert (rounded.start, rounded.end) == (exact.start // 16 * 16, -(-exact.end // 16) * 16)
    assert rounded.watermark == exact.watermark
    # It may end with the text, whatever its length.
    assert detect(mesh.client(tenant, Role.READER), tokens).spans[-1].end <= len(tokens)


def test_a_reader_sees_no_evidence(mesh: WatermarkMesh, tenant: str, client: WatermarkServiceStub) -> None:
    watermark, (tokens,) = written(client, 300)
    detection = detect(mesh.client(tenant, Role.READER), tokens)
    assert (detection.watermark, detection.p) == (watermark, 1e-24)
    assert not detection.HasField("evidence")
    assert detect(client, tokens).evidence.log_p < -60


def test_a_stream_that_is_repeated_has_the_same_id(
    mesh: WatermarkMesh, tenant: str, client: WatermarkServiceStub
) -> None:
    first, _ = written(client, 1, request_id="r")
    client.RotateKey(pb.RotateKeyRequest(modality=TEXT))
    assert written(client, 1, request_id="r")[0] == first
    assert written(client, 1)[0] != first
    listed = mesh.marks(tenant).ListWatermarks(registry_pb2.ListWatermarksRequest()).watermarks
    assert len(listed) == 2


def test_earlier_keys_find_text_until_they_are_revoked(
    mesh: WatermarkMesh, tenant: str, client: WatermarkServiceStub
) -> None:
    watermark, (tokens,) = written(client, 300)
    client.RotateKey(pb.RotateKeyRequest(modality=TEXT))
    assert detect(client, tokens).watermark == watermark
    assert detect(client, tokens).evidence.epoch == 0
    client.RevokeKey(pb.RevokeKeyRequest(modality=TEXT, epoch=0))
    # What others could have marked is not called unmarked.
    detection = detect(client, tokens, model_version=model_version(mesh, tenant))
    assert (detection.verdict, detection.watermark, detection.p) == (pb.VERDICT_INCONCLUSIVE, "", 1.0)
    assert not detection.HasField("evidence")
    client.RevokeKey(pb.RevokeKeyRequest(modality=TEXT, epoch=1))
    with pytest.raises(FailedPrecondition) as caught:
        written(client, 1)
    assert caught.value.reason == "NO_ACTIVE_KEY"


def test_a_stream_whose_key_is_revoked_ends(client: WatermarkServiceStub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.watermark.texts._RECHECK_INTERVAL_S", 0)
    with Drawing(client) as drawing:
        drawing.draw(logits(1))
        client.RevokeKey(pb.RevokeKeyRequest(modality=TEXT, epoch=0))
        with pytest.raises(FailedPrecondition) as caught:
            drawing.draw(logits(2))
    assert caught.value.reason == "NO_ACTIVE_KEY"


GOOD = pb.Logits(values=[0, 1, 2])
BAD = {
    "no logits": (pb.Logits(), "BAD_LOGITS", "logits.values"),
    "not a number": (pb.Logits(values=[0, np.nan]), "BAD_LOGITS", "logits.values"),
    "infinite": (pb.Logits(values=[0, np.inf]), "BAD_LOGITS", "logits.values"),
    "nothing possible": (pb.Logits(values=[-np.inf, -np.inf]), "BAD_LOGITS", "logits.values"),
    "too few tokens": (pb.Logits(values=[0, 1], tokens=[3]), "BAD_LOGITS", "logits.tokens"),
    "tokens alone": (pb.Logits(tokens=[3]), "BAD_LOGITS", "logits.values"),
    "a token too large": (pb.Logits(values=[0], tokens=[MAX_TOKEN + 1]), "BAD_TOKEN", "logits.tokens"),
    "a token twice": (pb.Logits(values=[0, 1], tokens=[3, 3]), "BAD_TOKEN", "logits.tokens"),
    "another vocabulary": (pb.Logits(values=[0, 1]), "VOCABULARY_CHANGED", "logits.values"),
}


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_drawn_from_says_why(client: WatermarkServiceStub, name: str) -> None:
    message, reason, field = BAD[name]
    with pytest.raises(InvalidArgument) as caught:
        asked(client, {}, GOOD, pb.Logits(values=[0, 1], tokens=[7, 100]), message)
    assert (caught.value.reason, caught.value.field) == (reason, field)


@pytest.mark.parametrize(
    ("config", "error", "reason", "field"),
    [
        ({"scheme": 9}, InvalidArgument, "BAD_VALUE", "config.scheme"),
        ({"model_version": "models/m/versions/1"}, NotFound, "MODEL_VERSION_NOT_FOUND", "model_version"),
        ({"model_version": "?"}, InvalidArgument, "BAD_NAME", "model_version"),
        ({"request_id": " "}, InvalidArgument, "BAD_VALUE", "request_id"),
    ],
)
def test_what_no_stream_begins_with_says_why(
    client: WatermarkServiceStub, config: dict[str, Any], error: type[MeshError], reason: str, field: str
) -> None:
    with pytest.raises(error) as caught:
        asked(client, config)
    assert (caught.value.reason, caught.value.field) == (reason, field)


@pytest.mark.parametrize(
    ("messages", "field"),
    [
        ([pb.MarkTokensRequest(logits=GOOD)], "config"),
        ([pb.MarkTokensRequest()], "config"),
        ([pb.MarkTokensRequest(config=pb.MarkTokensConfig()), pb.MarkTokensRequest()], "logits"),
        ([pb.MarkTokensRequest(config=pb.MarkTokensConfig())] * 2, "logits"),
    ],
)
def test_messages_come_in_their_order(
    client: WatermarkServiceStub, messages: list[pb.MarkTokensRequest], field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        list(client.MarkTokens(iter(messages), timeout=60))
    assert (caught.value.reason, caught.value.field) == ("MISSING_FIELD", field)


def test_a_stream_has_so_many_sequences_and_no_more(client: WatermarkServiceStub) -> None:
    messages = [pb.Logits(sequence=-i, values=[0, 1]) for i in range(MAX_SEQUENCES)]
    assert len(asked(client, {}, *messages, *messages)) == 1 + 2 * MAX_SEQUENCES
    with pytest.raises(ResourceExhausted) as caught:
        asked(client, {}, *messages, pb.Logits(sequence=1, values=[0, 1]))
    assert caught.value.reason == "TOO_MANY_SEQUENCES"


@pytest.mark.parametrize(
    ("request_", "reason", "field"),
    [
        (pb.DetectTextRequest(tokens=[MAX_TOKEN + 1]), "BAD_TOKEN", "tokens"),
        (pb.DetectTextRequest(tokens=[1] * (MAX_TOKENS + 1)), "TOO_MANY_TOKENS", "tokens"),
        (pb.DetectTextRequest(scheme=9), "BAD_VALUE", "scheme"),  # type: ignore[arg-type]
    ],
    ids=["token", "number", "scheme"],
)
def test_text_that_cannot_be_looked_into_says_why(
    client: WatermarkServiceStub, request_: pb.DetectTextRequest, reason: str, field: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        client.DetectText(request_)
    assert (caught.value.reason, caught.value.field) == (reason, field)


def test_a_stream_of_texts_goes_on_after_what_is_wrong(client: WatermarkServiceStub) -> None:
    watermark, (tokens,) = written(client, 300)
    texts: list[Sequence[int]] = [[MAX_TOKEN + 1], tokens, []]
    requests = (pb.DetectTextsRequest(request=pb.DetectTextRequest(tokens=text)) for text in texts)
    bad, good, empty = client.DetectTexts(requests, timeout=60)
    assert (bad.failure.code, bad.failure.reason) == (3, "BAD_TOKEN")
    assert good.response.detection.watermark == watermark
    assert empty.response.detection.verdict == pb.VERDICT_INCONCLUSIVE


def test_passages_of_several_answers_each_tell_their_id(client: WatermarkServiceStub) -> None:
    made = [written(client, 300) for _ in range(2)]
    detection = detect(client, [token for _, (tokens,) in made for token in tokens])
    assert detection.verdict == pb.VERDICT_MARKED
    assert {span.watermark for span in detection.spans} - {""} <= {watermark for watermark, _ in made}
    assert detection.watermark in {"", *(watermark for watermark, _ in made)}
