"""Every scheme of text marks: what it draws, what it finds, and what it never claims."""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from common.errors import InvalidArgument
from deepseek.watermark.keys import WatermarkKey, derive_key
from deepseek.watermark.text.gumbel import GumbelDetector, GumbelSampler
from deepseek.watermark.text.kgw import KgwDetector, KgwSampler
from deepseek.watermark.text.reed_solomon import IdCode
from deepseek.watermark.text.scheme import CONTEXT, Detector, Sampler
from deepseek.watermark.text.synthid import SynthIdDetector, SynthIdSampler

VOCABULARY = 64
CODE = IdCode()


@dataclass(frozen=True)
class Scheme:
    """How to make the two halves of a scheme."""

    sampler: Callable[[WatermarkKey, np.random.Generator], Sampler]
    detector: Callable[[WatermarkKey], Detector]


SCHEMES = {
    "gumbel": Scheme(
        lambda key, random: GumbelSampler(key, 0xABCDEF, CODE, random), lambda key: GumbelDetector(key, CODE)
    ),
    "kgw": Scheme(KgwSampler, KgwDetector),
    "synthid": Scheme(SynthIdSampler, SynthIdDetector),
}


@pytest.fixture(params=SCHEMES)
def scheme(request: pytest.FixtureRequest) -> Scheme:
    return SCHEMES[request.param]


def a_key(epoch: int = 0) -> WatermarkKey:
    return derive_key(bytes(32), tenant="lab", modality="text", epoch=epoch)


def steps(num_tokens: int, number: int = 0) -> Iterator[np.ndarray]:
    """Logits of about 3 nats, other ones for every token."""
    random = np.random.default_rng(number)
    return (random.permutation(np.linspace(0, 4, VOCABULARY)) for _ in range(num_tokens))


def marked(scheme: Scheme, num_tokens: int, number: int = 0) -> list[int]:
    sampler = scheme.sampler(a_key(), np.random.default_rng(number))
    return [sampler.draw(logits_V) for logits_V in steps(num_tokens, number)]


@pytest.mark.parametrize("num_before", [0, 5], ids=["without a context", "with one"])
@pytest.mark.parametrize(
    ("values", "what"),
    [
        ([], "there are no logits"),
        ([0.0, math.nan], "a logit is NaN or inf"),
        ([0.0, math.inf], "a logit is NaN or inf"),
        ([-math.inf, -math.inf], "no token can be drawn"),
    ],
    ids=["none", "not a number", "infinite", "nothing possible"],
)
def test_logits_without_probabilities_are_refused(
    scheme: Scheme, values: list[float], what: str, num_before: int
) -> None:
    sampler = scheme.sampler(a_key(), np.random.default_rng(0))
    for logits_V in steps(num_before):
        sampler.draw(logits_V)
    with pytest.raises(InvalidArgument, match=what) as error:
        sampler.draw(np.array(values))
    assert error.value.reason == "BAD_LOGITS"
    assert sampler.draw(np.array([-np.inf, 1.0])) == 1  # and it goes on


def test_a_mark_is_found_by_its_key_and_by_no_other(scheme: Scheme) -> None:
    tokens = marked(scheme, 200)
    assert scheme.detector(a_key()).weigh(tokens).log_p < math.log(1e-6)
    assert scheme.detector(a_key(1)).weigh(tokens).log_p > math.log(1e-3)


def test_a_mark_is_found_wherever_the_text_begins_and_ends(scheme: Scheme) -> None:
    tokens = [1, 2, 3, *marked(scheme, 220)[20:], 4, 5, 6]
    assert scheme.detector(a_key()).weigh(tokens).log_p < math.log(1e-6)


def test_p_values_of_text_without_a_mark_are_what_they_say(scheme: Scheme) -> None:
    detector = scheme.detector(a_key())
    random = np.random.default_rng(5)
    texts = [random.integers(VOCABULARY, size=40).tolist() for _ in range(80)]
    p = np.exp([detector.weigh(text).log_p for text in texts])
    for level in (0.02, 0.1, 0.5):
        # Five standard deviations above what is claimed; scores that come in steps stay below it.
        assert (p <= level).mean() <= level + 5 * math.sqrt(level * (1 - level) / len(p))


@pytest.mark.parametrize("num_tokens", [0, 1, CONTEXT])
def test_too_little_text_tells_nothing(scheme: Scheme, num_tokens: int) -> None:
    evidence = scheme.detector(a_key()).weigh(marked(scheme, num_tokens))
    assert (evidence.num_scored, evidence.log_p) == (0, 0.0)


def test_what_cannot_come_is_never_drawn(scheme: Scheme) -> None:
    sampler = scheme.sampler(a_key(), np.random.default_rng(0))
    for logits_V in steps(200):
        logits_V[::2] = -np.inf
        assert sampler.draw(logits_V) % 2


def test_a_text_that_repeats_itself_is_no_more_evidence(scheme: Scheme) -> None:
    tokens = marked(scheme, 100)
    detector = scheme.detector(a_key())
    once, often = detector.weigh(tokens), detector.weigh(tokens * 5)
    assert often.num_scored <= once.num_scored + CONTEXT
    assert often.log_p == pytest.approx(once.log_p, abs=12)


def test_a_repeated_context_is_drawn_afresh(scheme: Scheme) -> None:
    """Of two tokens that are as likely, a mark that hung on the context alone would draw one for ever."""
    sampler = scheme.sampler(a_key(), np.random.default_rng(1))
    logits_V = np.full(VOCABULARY, -np.inf)
    logits_V[:2] = 0.0
    drawn = [sampler.draw(logits_V) for _ in range(2000)]
    assert abs(sum(drawn) - 1000) < 5 * math.sqrt(2000) / 2


@pytest.mark.parametrize("name", ["gumbel", "synthid"])  # the other distorts, as its module says
def test_over_contexts_tokens_come_with_their_probabilities(name: str) -> None:
    scheme = SCHEMES[name]
    logits_V = np.log(np.array([0.5, 0.2, 0.15, 0.1, 0.05]))
    counts, num_keys = np.zeros(5), 4000
    for number in range(num_keys):
        sampler = scheme.sampler(a_key(number), np.random.default_rng(number))
        tokens = [sampler.draw(logits_V) for _ in range(CONTEXT + 1)]
        counts[tokens[-1]] += 1  # the first that carries a mark
    expected = num_keys * np.exp(logits_V)
    chi_squared = float(((counts - expected) ** 2 / expected).sum())
    assert chi_squared < 23.5  # four degrees of freedom: exceeded once in 10,000 times


@pytest.mark.parametrize("form", [np.ndarray.tolist, lambda logits_V: logits_V[None], torch.from_numpy])
def test_logits_in_another_form_draw_the_same_tokens(scheme: Scheme, form: Callable[[np.ndarray], Any]) -> None:
    sampler = scheme.sampler(a_key(), np.random.default_rng(0))
    assert [sampler.draw(form(logits_V)) for logits_V in steps(20)] == marked(scheme, 20)


def test_tokens_in_another_form_weigh_the_same(scheme: Scheme) -> None:
    tokens, detector = marked(scheme, 100), scheme.detector(a_key())
    for given in (np.array(tokens), list(np.array(tokens)), torch.tensor([tokens])):
        assert detector.weigh(given) == detector.weigh(tokens)
        assert detector.excess(given, []) == detector.excess(tokens, [])


def test_tokens_of_others_are_observed_in_any_form_of_a_number(scheme: Scheme) -> None:
    samplers = [scheme.sampler(a_key(), np.random.default_rng(0)) for _ in range(2)]
    for token in (5, 6, 7):
        samplers[0].observe(token)
        samplers[1].observe(np.int64(token))
    logits_V = next(steps(1))
    assert samplers[0].draw(logits_V) == samplers[1].draw(logits_V)
    with pytest.raises(InvalidArgument) as caught:
        samplers[0].observe(1.5)  # type: ignore[arg-type]
    assert (caught.value.reason, caught.value.field) == ("BAD_TOKEN", "token")
