"""Detection in texts that are marked completely, in part, twice, or not at all."""

import math

import numpy as np
import pytest

from common.errors import InvalidArgument
from deepseek.watermark.keys import derive_key
from deepseek.watermark.text.detection import (
    MAX_TOKEN,
    MAX_TOKENS,
    Scheme,
    _sure_ids,
    detect,
    make_detector,
    make_sampler,
)
from deepseek.watermark.text.scheme import Evidence
from deepseek.watermark.verdict import Verdict

KEY = derive_key(bytes(32), tenant="lab", modality="text", epoch=0)
VOCABULARY = 512


def marked(num_tokens: int, message: int = 0x123456789ABC, scheme: Scheme = Scheme.GUMBEL) -> list[int]:
    random, sampler = np.random.default_rng(message & 0xFF), make_sampler(scheme, KEY, message)
    return [sampler.draw(random.permutation(np.linspace(0, 8, VOCABULARY))) for _ in range(num_tokens)]


def plain(num_tokens: int, number: int = 0) -> list[int]:
    return list(map(int, np.random.default_rng(number).integers(VOCABULARY, size=num_tokens)))


@pytest.mark.parametrize("scheme", Scheme)
def test_the_span_of_a_marked_text_covers_it(scheme: Scheme) -> None:
    tokens = marked(300, scheme=scheme)
    found = detect(make_detector(scheme, KEY), tokens)
    assert found.verdict is Verdict.MARKED
    assert found.id == (0x123456789ABC if scheme is Scheme.GUMBEL else None)
    assert sum(span.end - span.start for span in found.spans) > 240


def test_two_marks_in_one_text_are_distinguished() -> None:
    tokens = [*plain(300), *marked(300, 1), *plain(200, 1), *marked(300, 2), *plain(100, 2)]
    found = detect(make_detector(Scheme.GUMBEL, KEY), tokens)
    assert found.verdict is Verdict.MARKED
    assert [span.id for span in found.spans] == [1, 2]
    for span, (start, end) in zip(found.spans, [(300, 600), (800, 1100)], strict=True):
        assert abs(span.start - start) < 40
        assert abs(span.end - end) < 40


def test_a_marked_part_of_a_long_text_is_found_by_the_published_schemes_too() -> None:
    for scheme in (Scheme.KGW, Scheme.SYNTHID):
        tokens = [*plain(300), *marked(250, scheme=scheme), *plain(300, 1)]
        (span,) = detect(make_detector(scheme, KEY), tokens).spans
        assert abs(span.start - 300) < 60
        assert abs(span.end - 550) < 60


def test_detection_can_be_stopped() -> None:
    def check() -> None:
        raise TimeoutError

    for scheme in Scheme:
        with pytest.raises(TimeoutError):
            detect(make_detector(scheme, KEY), plain(200), check=check)


def test_without_spans_the_text_is_weighed_as_a_whole() -> None:
    detector, tokens = make_detector(Scheme.GUMBEL, KEY), marked(200)
    found = detect(detector, tokens, spans=False)
    assert [(span.start, span.end) for span in found.spans] == [(0, 200)]
    assert found.log_p == detector.weigh(tokens).log_p


@pytest.mark.parametrize("scheme", Scheme)
def test_text_without_this_mark_is_not_marked(scheme: Scheme) -> None:
    detector = make_detector(scheme, KEY)
    for number in range(5):
        found = detect(detector, plain(400, number))
        assert (found.id, found.spans) == (None, ())
        assert found.log_p > math.log(1e-4)


def test_another_tokeniser_finds_no_id() -> None:
    """Another tokeniser gives other numbers at other positions."""
    tokens = marked(400)
    others = [part for token in tokens for part in (token // 16, token % 16)]
    found = detect(make_detector(Scheme.GUMBEL, KEY), others)
    assert found.id is None
    assert found.verdict is not Verdict.MARKED


def test_evidence_is_corrected_for_the_number_of_texts() -> None:
    one = Evidence(100, -1.0, 7, -20.0, -3.0)
    ten = one.among(10)
    assert (ten.log_p_id, ten.log_p_wrong) == (pytest.approx(-20 + math.log(10)), pytest.approx(-3 + math.log(10)))
    assert one.among(0) == one
    assert one.among(100).log_p_wrong == 0.0


def test_an_id_is_reported_if_it_is_wrong_at_most_once_in_a_million() -> None:
    """A hundredth of these errors is allotted to parts."""
    sure, part = math.log(0.99e-6) - 0.001, math.log(1e-8) - 0.001
    assert _sure_ids(Evidence(100, 0.0, 7, 0.0, sure)) == [7]
    assert _sure_ids(Evidence(100, 0.0, 7, 0.0, sure + 0.002)) == []
    assert _sure_ids(Evidence(100, 0.0, 7), [Evidence(100, 0.0, 8, 0.0, part)]) == [8]
    assert _sure_ids(Evidence(100, 0.0, 7), [Evidence(100, 0.0, 8, 0.0, part + 0.002)]) == []
    assert _sure_ids(Evidence(100, 0.0, 7, 0.0, sure), [Evidence(100, 0.0, 8, 0.0, part)]) == [8, 7]


@pytest.mark.parametrize("num_tokens", [0, 1, 2, 3, 20])
def test_little_text_is_inconclusive(num_tokens: int) -> None:
    found = detect(make_detector(Scheme.GUMBEL, KEY), plain(num_tokens))
    assert (found.verdict, found.id) == (Verdict.INCONCLUSIVE, None)


@pytest.mark.parametrize(
    ("tokens", "reason"),
    [([0] * (MAX_TOKENS + 1), "TOO_MANY_TOKENS"), ([1, -1, 2], "BAD_TOKEN"), ([MAX_TOKEN + 1], "BAD_TOKEN")],
)
def test_anything_but_a_text_is_refused(tokens: list[int], reason: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        detect(make_detector(Scheme.GUMBEL, KEY), tokens)
    assert (caught.value.reason, caught.value.field) == (reason, "tokens")


def test_tokens_are_accepted_in_any_form() -> None:
    sampler, random = make_sampler(Scheme.GUMBEL, KEY, np.uint64(42)), np.random.default_rng(0)
    tokens = [sampler.draw(random.normal(0, 2, 1000)) for _ in range(250)]
    detector = make_detector(Scheme.GUMBEL, KEY)
    found = detect(detector, tokens)
    assert (found.verdict, found.id) == (Verdict.MARKED, 42)
    for given in (np.array(tokens), list(np.array(tokens)), np.array([tokens]), tuple(tokens)):
        assert detect(detector, given) == found
    with pytest.raises(InvalidArgument) as caught:
        detect(detector, np.array([tokens, tokens]))
    assert (caught.value.reason, caught.value.field) == ("BAD_TOKEN", "tokens")


@pytest.mark.parametrize("message", [-1, 1 << 48, 5.0, "5", True, None])
def test_an_id_out_of_range_is_refused(message: int) -> None:
    with pytest.raises(InvalidArgument) as caught:
        make_sampler(Scheme.GUMBEL, KEY, message)
    assert (caught.value.reason, caught.value.field) == ("BAD_ID", "id")
