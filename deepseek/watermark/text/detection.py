"""Detects marks in text, and reports a verdict, the id of the mark, and the marked passages.

A mark may cover only a part of the text. So the detector also looks for stretches of tokens with more evidence than
unmarked text usually has. A stretch is extended until its total score has dropped too far below the maximum so far, as
in sequence alignment (Altschul et al. 1997). Each stretch is then scored on its own, and its p-value is multiplied by
the number of possible stretches, which is n (n + 1) / 2 for n scored tokens.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache

from common.errors import InvalidArgument
from deepseek.watermark.ids import check_id
from deepseek.watermark.keys import WatermarkKey
from deepseek.watermark.text.gumbel import GumbelDetector, GumbelSampler
from deepseek.watermark.text.kgw import KgwDetector, KgwSampler
from deepseek.watermark.text.reed_solomon import IdCode
from deepseek.watermark.text.scheme import Detector, Evidence, Sampler
from deepseek.watermark.text.synthid import SynthIdDetector, SynthIdSampler
from deepseek.watermark.text.tokens import MAX_TOKEN as MAX_TOKEN
from deepseek.watermark.text.tokens import check_tokens
from deepseek.watermark.verdict import LOG_MARKED, LOG_NOT_MARKED, Verdict, judged

MAX_TOKENS = 4096
MIN_TOKENS = 200
"""Minimum number of scored tokens at which a text can be reported as not marked. If the model had few plausible
tokens to choose from, even a mark in a longer text may be missed."""

_PART_SHARE = 0.01
"""Share of the false-alarm probability that is allotted to stretches. An equal share is allotted to the parts of the
text that `Detector.weigh_parts` searches for ids (weighted Bonferroni correction)."""

_DROP = 20.0
_MAX_STRETCHES = 32


class Scheme(StrEnum):
    """A watermark scheme, which defines how tokens are drawn."""

    GUMBEL = "gumbel"
    KGW = "kgw"
    SYNTHID = "synthid"


@dataclass(frozen=True)
class Span:
    """The tokens from `start` up to, but not including, `end`; and the id that they carry, if known."""

    start: int
    end: int
    id: int | None = None


@dataclass(frozen=True)
class TextDetection:
    """The result of a detection in a text.

    Attributes:
        verdict: Whether the text or a part of it is marked.
        log_p: Natural logarithm of the p-value.
        num_scored: Number of tokens that could be scored.
        id: Id of the mark; None if there is no mark, if the id is uncertain, or if marks of the scheme carry none.
        spans: Marked passages, in order.
    """

    verdict: Verdict
    log_p: float
    num_scored: int
    id: int | None = None
    spans: tuple[Span, ...] = ()


@cache
def _code() -> IdCode:
    return IdCode()


def make_sampler(scheme: Scheme, key: WatermarkKey, message: int) -> Sampler:
    """Returns a sampler for one sequence.

    Args:
        scheme: Scheme of the mark.
        key: Key of the mark.
        message: Id, 0 to 2^48 - 1; only marks of the scheme GUMBEL carry it.

    Raises:
        InvalidArgument: BAD_ID if `message` is not an id.
    """
    message = check_id(message)
    match scheme:
        case Scheme.KGW:
            return KgwSampler(key)
        case Scheme.SYNTHID:
            return SynthIdSampler(key)
        case Scheme.GUMBEL:
            return GumbelSampler(key, message, _code())


def make_detector(scheme: Scheme, key: WatermarkKey) -> Detector:
    """Returns a detector for marks made with a scheme and a key."""
    match scheme:
        case Scheme.KGW:
            return KgwDetector(key)
        case Scheme.SYNTHID:
            return SynthIdDetector(key)
        case Scheme.GUMBEL:
            return GumbelDetector(key, _code())


def detect(
    detector: Detector,
    tokens: Sequence[int],
    *,
    spans: bool = True,
    check: Callable[[], None] = lambda: None,
) -> TextDetection:
    """Searches a text for a mark.

    Args:
        detector: Detector of a scheme and a key.
        tokens: List, array or tensor of at most 4,096 tokens, from the tokenizer of the model that generated the
            text.
        spans: Whether to also search for marked passages in an otherwise unmarked text, and return their positions.
        check: Function that is called repeatedly during the search; it may raise, e.g. after a deadline.

    Raises:
        InvalidArgument: TOO_MANY_TOKENS if the text is too long; BAD_TOKEN if it contains an invalid token.
    """
    tokens = check_tokens(tokens)
    if len(tokens) > MAX_TOKENS:
        text = f"the text has {len(tokens)} tokens; the limit is {MAX_TOKENS} per search, so split the text"
        raise InvalidArgument("TOO_MANY_TOKENS", text, field="tokens")
    if not spans:
        whole = detector.weigh(tokens)
        return _detection(whole.log_p, whole.num_scored, _sure_ids(whole), [Span(0, len(tokens))])
    whole, parts = detector.weigh_parts(tokens, check)
    log_p = min(
        whole.log_p - math.log1p(-2 * _PART_SHARE),
        min((part.log_p_id for part in parts), default=0.0) - math.log(_PART_SHARE),
    )
    # Certain ids already prove the mark, so the stretches only locate the tokens that carry these ids.
    messages = _sure_ids(whole, parts) if log_p <= LOG_MARKED else []
    num_stretches = math.log(max(1, whole.num_scored * (whole.num_scored + 1) // 2))
    found: list[Span] = []
    for span in _stretches(detector.excess(tokens, messages)):
        check()
        log_p_span, message = detector.weigh_stretch(tokens, span.start, span.end, messages)
        log_p_span += num_stretches
        if log_p_span <= (LOG_NOT_MARKED if messages else LOG_MARKED + math.log(_PART_SHARE)):
            found.append(replace(span, id=message))
            if not messages:
                log_p = min(log_p, log_p_span - math.log(_PART_SHARE))
    return _detection(min(0.0, log_p), whole.num_scored, messages, found or [Span(0, len(tokens))])


def _detection(log_p: float, num_scored: int, messages: Sequence[int], spans: Sequence[Span]) -> TextDetection:
    verdict = judged(log_p, is_enough=num_scored >= MIN_TOKENS)
    if verdict is not Verdict.MARKED:
        return TextDetection(verdict, log_p, num_scored)
    return TextDetection(verdict, log_p, num_scored, messages[0] if messages else None, tuple(spans))


def _sure_ids(whole: Evidence, parts: Sequence[Evidence] = ()) -> list[int]:
    """Returns the ids whose evidence neither unmarked text nor another id could explain, the most certain first."""
    sure = [one for one in parts if one.log_p_wrong <= LOG_MARKED + math.log(_PART_SHARE)]
    if whole.log_p_wrong <= LOG_MARKED + math.log1p(-_PART_SHARE):
        sure.append(whole)
    return list(dict.fromkeys(one.id for one in sorted(sure, key=lambda one: one.log_p_wrong) if one.id is not None))


def _stretches(excess: Sequence[tuple[int, float]]) -> list[Span]:
    """Returns the stretches with the highest total scores, in the order of their positions."""
    found: list[tuple[float, Span]] = []
    index = 0
    while index < len(excess):
        first, total, most, last = index, 0.0, 0.0, index
        for index in range(first, len(excess)):
            total += excess[index][1]
            if total > most:
                most, last = total, index
            elif total <= max(0.0, most - _DROP):
                break
        if most > 0:
            found.append((most, Span(excess[first][0], excess[last][0] + 1)))
        index = last + 1
    best = sorted(found, key=lambda scored: -scored[0])[:_MAX_STRETCHES]
    return sorted((span for _, span in best), key=lambda span: span.start)
