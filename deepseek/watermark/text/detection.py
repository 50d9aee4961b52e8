"""Detection of marks in text: the verdict, the id, and where in the text the marks are.

A text may be marked in part only. Stretches whose tokens carry more than text without a mark would are extended until
they fall back by so much that they have to be over (as alignments are; Altschul et al. 1997), each is weighed as if it
were alone, and its p-value multiplied by the number of stretches that there are, n (n + 1) / 2.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import cache

from common.errors import InvalidArgument
from deepseek.watermark.ids import check_id
from deepseek.watermark.keys import WatermarkKey
from deepseek.watermark.text.code import IdCode
from deepseek.watermark.text.gumbel import GumbelDetector, GumbelSampler
from deepseek.watermark.text.kgw import KgwDetector, KgwSampler
from deepseek.watermark.text.scheme import Detector, Evidence, Sampler
from deepseek.watermark.text.synthid import SynthIdDetector, SynthIdSampler
from deepseek.watermark.text.tokens import MAX_TOKEN as MAX_TOKEN
from deepseek.watermark.text.tokens import check_tokens
from deepseek.watermark.verdict import LOG_MARKED, LOG_NOT_MARKED, Verdict, judged

MAX_TOKENS = 4096
MIN_TOKENS = 200
"""Fewer that could be scored are too few to say that there is no mark; where a model had little choice, more are."""

_PART_SHARE = 0.01
"""Part of the false alarms that is left to stretches, and as much to passages with ids (Bonferroni, with weights)."""

_DROP = 20.0
_MAX_STRETCHES = 32


class Scheme(StrEnum):
    """How tokens are drawn."""

    GUMBEL = "gumbel"
    KGW = "kgw"
    SYNTHID = "synthid"


@dataclass(frozen=True)
class Span:
    """Tokens that follow each other; `end` is just outside. The id that they carry, if it is known."""

    start: int
    end: int
    id: int | None = None


@dataclass(frozen=True)
class TextDetection:
    """What a text tells of a mark.

    Attributes:
        verdict: Whether it is marked, wholly or in part.
        log_p: Natural logarithm of the p-value.
        num_scored: Tokens that could be scored.
        id: The id; None without a mark, without enough of it to be sure, or if the scheme carries none.
        spans: Where marks were found, in order.
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
    """A sampler for one sequence.

    Args:
        scheme: How tokens are drawn.
        key: The key.
        message: The id, 0 to 2^48 - 1; only GUMBEL carries it.

    Raises:
        InvalidArgument: BAD_ID.
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
    """A detector of a scheme's marks."""
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
    """Looks for a mark.

    Args:
        detector: Of a scheme and a key.
        tokens: Tokens of the text, by the tokeniser that it was drawn with; a list, array or tensor of at most 4,096.
        spans: Whether to look for text that is marked in part, and to tell where.
        check: Called now and then; may raise, e.g. when time is over.

    Raises:
        InvalidArgument: TOO_MANY_TOKENS, BAD_TOKEN.
    """
    tokens = check_tokens(tokens)
    if len(tokens) > MAX_TOKENS:
        text = f"the text has {len(tokens)} tokens; at most {MAX_TOKENS} are looked into at once, so split it"
        raise InvalidArgument("TOO_MANY_TOKENS", text, field="tokens")
    if not spans:
        whole = detector.weigh(tokens)
        return _detection(whole.log_p, whole.num_scored, _sure_ids(whole), [Span(0, len(tokens))])
    whole, parts = detector.weigh_parts(tokens, check)
    log_p = min(
        whole.log_p - math.log1p(-2 * _PART_SHARE),
        min((part.log_p_id for part in parts), default=0.0) - math.log(_PART_SHARE),
    )
    # Where ids are known they have proved the mark, and only their places are asked for here.
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
    """Ids that neither text without these marks would tell, nor text that carries others; the surest first."""
    sure = [one for one in parts if one.log_p_wrong <= LOG_MARKED + math.log(_PART_SHARE)]
    if whole.log_p_wrong <= LOG_MARKED + math.log1p(-_PART_SHARE):
        sure.append(whole)
    return list(dict.fromkeys(one.id for one in sorted(sure, key=lambda one: one.log_p_wrong) if one.id is not None))


def _stretches(excess: Sequence[tuple[int, float]]) -> list[Span]:
    """Stretches of positions whose scores grow; the best few, in order."""
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
