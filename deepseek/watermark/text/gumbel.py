"""The scheme of ours: Gumbel sampling with two keys, one that proves and one that carries the id.

Gumbel-max sampling (Aaronson 2022): with a uniform u for each token, the token with the least -ln(1 - u) / p is drawn,
which has the probabilities p exactly; whoever knows the key sees that the u of drawn tokens are small. Evidence is
-ln(u), a standard exponential for text that has no mark, so sums are Erlang and p-values exact.

Two keys: by the *proving* key tokens are drawn until the mark is proved, then by the *carrying* key until the id is
sure, then both anew, so that each passage of a long text has a proof and the id. The sampler knows the evidence there
is so far. A detector looks at both keys, for all tokens and for the beginning that proves most, and looks for the id in
all tokens and in those behind that beginning (docs/decisions/0009). So short text is proved as well as if it carried
nothing, no evidence is spent where there is enough, and each token is still drawn by its probabilities, as the choice
of the key depends on tokens before only.

The id is eight symbols (`code`). A context says which of them a token works for, and the symbol shifts the uniforms
along the vocabulary: for one symbol every token has a uniform of its own, for one token every symbol has.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from deepseek.watermark.keys import WatermarkKey
from deepseek.watermark.tail import log_bet, log_erlang_bound, log_erlang_tail
from deepseek.watermark.text.code import ID_BITS, NUM_DATA, NUM_SYMBOLS, NUM_VALUES, SYMBOL_BITS, IdCode
from deepseek.watermark.text.gumbel_max import LEAST, gumbel_max
from deepseek.watermark.text.scheme import CONTEXT, Bits, Detector, Evidence, Logits, Sampler, scored

PROVED = math.log(1e-9)
"""Logarithm of the p-value, of the beginning, at which a sampler takes a mark for proved."""

CARRIED = math.log(1e-40)
"""That at which it takes an id for carried. Far beyond proof, since edits take from it, and an id that is found proves
the mark as well."""

HEAD_SHARE = ID_SHARE = 0.03
"""Parts of the false alarms that are left to the beginning of a text and to the id, which prove a mark as well
(Bonferroni, with weights): they have evidence in plenty where they have any, and short text, which has none, loses
little."""

_USUAL = 1.6
"""Evidence of a token, nats, between 1, its mean without a mark, and 2 and more with one."""

_CARRIES = math.log(1e-3)
_LOG_IDS = ID_BITS * math.log(2)
_HALF_PART = 64
_MANY_TOKENS = 4096

_Nats = npt.NDArray[np.float32]


def _other_symbols() -> Iterator[tuple[float, list[int]]]:
    """Which symbols a word may not have in common with another, and the logarithm of the number of such words, times
    the inverse of its weight: sets with none, one and two symbols in common have 1/2, 1/4 and 1/4 (Bonferroni)."""
    for num_common in range(NUM_DATA):
        sets = list(itertools.combinations(range(NUM_SYMBOLS), NUM_SYMBOLS - num_common))
        weight = (1 / 4 if num_common else 1 / 2) / len(sets)
        for others in sets:
            yield SYMBOL_BITS * (NUM_DATA - num_common) * math.log(2) - math.log(weight), list(others)


_OTHERS = tuple(_other_symbols())


class _Uniforms:
    """Uniforms of one key. Thread-safe."""

    def __init__(self, key: WatermarkKey, purpose: str) -> None:
        self.bits = Bits(key, f"gumbel/{purpose}")

    def of(self, context: Sequence[int], start: int, count: int) -> npt.NDArray[np.float64]:
        """Those behind a context with the numbers from `start` on, each at least `LEAST` and below 1."""
        u_N = self.bits.uniforms(context, start, count)
        return np.maximum(u_N, LEAST, out=u_N)

    def one(self, context: Sequence[int], number: int) -> float:
        """A single one of them."""
        return float(self.of(context, number, 1)[0])

    def position(self, context: Sequence[int]) -> int:
        """The symbol that tokens behind a context work for."""
        return int.from_bytes(self.bits.seed((*context, 0), 8), "little") % NUM_SYMBOLS


class GumbelSampler(Sampler):
    """Draws tokens that carry an id.

    Args:
        key: The key.
        message: The id, 0 to 2^48 - 1.
        code: Of ids.
        random: Draws where there is no mark; unpredictable by default.
    """

    def __init__(
        self, key: WatermarkKey, message: int, code: IdCode, random: np.random.Generator | None = None
    ) -> None:
        super().__init__(random)
        self._proving, self._carrying = _Uniforms(key, "prove"), _Uniforms(key, "carry")
        self._symbols = code.encode(message)
        self._begin()

    def _begin(self) -> None:
        """Proves and carries all of it anew, so that passages of a long text have marks of their own."""
        self._num_scored = 0
        self._proof = self._carried = 0.0
        self._proves = True

    def _marked(self, logits_V: Logits, context: tuple[int, ...]) -> int:
        if self._proves:
            u_V = self._proving.bits.uniforms(context, 0, len(logits_V))
        else:
            u_V = self._carrying.bits.uniforms(context, self._shift(context), len(logits_V))
        # ln(-ln(1 - u)) - logit is least where -ln(1 - u) / p is, and needs no normalisation.
        return gumbel_max(u_V, logits_V)

    def _weigh(self, context: tuple[int, ...], token: int) -> None:
        """Adds the evidence for both keys, of which one had none but by chance, and settles whose turn is next."""
        self._num_scored += 1
        self._proof -= math.log(self._proving.one(context, token))
        self._carried -= math.log(self._carrying.one(context, self._shift(context) + token))
        # What was proved once stays so, in its place, however weak the proof grows over all that follows.
        self._proves = self._proves and log_bet(self._num_scored, self._proof) < -PROVED
        if self._is_carried():
            self._begin()

    def _is_carried(self) -> bool:
        """Whether the evidence for the id suffices. The tail takes one step per token, the bound a single step."""
        bound = _LOG_IDS + log_erlang_bound(self._num_scored, self._carried)
        # The last term of the tail, exp(-x) x^(n - 1) / (n - 1)!, is at most 1 + ln(x) nats below the bound (Stirling),
        # so the tail exceeds the threshold where the bound exceeds it by more. For very many tokens the bound suffices.
        if bound > CARRIED + 2 + math.log1p(self._carried) or self._num_scored > _MANY_TOKENS:
            return bound <= CARRIED
        return _LOG_IDS + log_erlang_tail(self._num_scored, self._carried) <= CARRIED

    def _shift(self, context: tuple[int, ...]) -> int:
        return int(self._symbols[self._carrying.position(context)])


class GumbelDetector(Detector):
    """Finds marks and ids. Thread-safe.

    Args:
        key: The key.
        code: Of ids.
    """

    def __init__(self, key: WatermarkKey, code: IdCode) -> None:
        self._proving, self._carrying = _Uniforms(key, "prove"), _Uniforms(key, "carry")
        self._code = code

    def weigh(self, tokens: Sequence[int]) -> Evidence:
        """See `Detector.weigh`."""
        return self._weighed(tokens, lambda _position, _nats_V: None)

    def weigh_parts(self, tokens: Sequence[int], check: Callable[[], None]) -> tuple[Evidence, list[Evidence]]:
        """See `Detector.weigh_parts`: parts of 128, 256, 512, ... tokens, each of which overlaps half of the next."""
        newest: list[_Scores] = []  # of each length, half a part
        counts: list[int] = []
        found: list[Evidence] = []
        scores = _Scores()

        def add(position: int, nats_V: _Nats) -> None:
            nonlocal scores
            scores.add(position, nats_V)
            if scores.num_scored < _HALF_PART:
                return
            check()
            half, scores = scores, _Scores()
            for level in itertools.count():
                if level == len(newest):
                    newest.append(half)
                    counts.append(1)
                    break
                part = newest[level] + half
                found.append(self._decoded(part))
                newest[level] = half
                counts[level] += 1
                if counts[level] % 2:
                    break
                half = part  # and half of one that is twice as long

        whole = self._weighed(tokens, add)
        return whole, [one.among(len(found)) for one in found]

    def weigh_stretch(
        self, tokens: Sequence[int], start: int, end: int, messages: Sequence[int]
    ) -> tuple[float, int | None]:
        """See `Detector.weigh_stretch`."""
        stretch = tokens[max(0, start - CONTEXT) : end]
        excess = [score for _, score in self.excess(stretch, messages)]
        log_p = log_erlang_tail(len(excess), sum(excess) + _USUAL * len(excess))
        carried = [0.0] * len(messages)
        symbols = [self._code.encode(message) for message in messages]
        for _, context, token in scored(stretch):
            for i, own in enumerate(symbols):
                shift = int(own[self._carrying.position(context)])
                carried[i] -= math.log(self._carrying.one(context, shift + token))
        most = max(range(len(messages)), key=lambda i: carried[i], default=None)
        is_sure = most is not None and log_erlang_tail(len(excess), carried[most]) <= _CARRIES
        return log_p, messages[most] if most is not None and is_sure else None

    def nats(self, context: tuple[int, ...], token: int) -> _Nats:
        """Evidence of a token for each value of the symbol that it works for, nats: (65536,)."""
        return -np.log(self._carrying.of(context, token, NUM_VALUES).astype(np.float32))

    def _weighed(self, tokens: Sequence[int], add: Callable[[int, _Nats], None]) -> Evidence:
        """Weighs a text, and hands each token's symbol and its evidence for all values to `add` on the way."""
        all_scored = [(context, token) for _, context, token in scored(tokens)]
        proofs = [-math.log(self._proving.one(context, token)) for context, token in all_scored]
        length, log_p_head = _head(proofs)
        head, rest = _Scores(), _Scores()
        for i, (context, token) in enumerate(all_scored):
            position = self._carrying.position(context)
            nats_V = self.nats(context, token)
            (head if i < length else rest).add(position, nats_V)
            add(position, nats_V)
        whole = head + rest
        evidence = self._decoded(whole)
        if length:
            evidence = min(evidence, self._decoded(rest), key=lambda one: one.log_p_id).among(2)
        log_p = min(
            0.0,
            log_erlang_tail(len(proofs), sum(proofs)) - math.log1p(-HEAD_SHARE - ID_SHARE),
            log_p_head - math.log(HEAD_SHARE),
            evidence.log_p_id - math.log(ID_SHARE),
        )
        return replace(evidence, num_scored=len(proofs), log_p=log_p)

    def _decoded(self, scores: "_Scores") -> Evidence:
        decoded = self._code.decode(scores.nats_PV)
        log_p_id = min(0.0, _LOG_IDS + log_erlang_tail(scores.num_scored, decoded.score))
        return Evidence(scores.num_scored, 0.0, decoded.id, log_p_id, self._log_p_wrong(scores, decoded.id))

    def _log_p_wrong(self, scores: "_Scores", message: int) -> float:
        """A bound of the probability that a text which carries another id tells as much of this one.

        A word that is not the text's has up to two symbols in common with it, and what tells of the others is chance.
        """
        nats_P = scores.nats_PV[np.arange(NUM_SYMBOLS), self._code.encode(message)]
        bounds = [
            log_number + log_erlang_tail(int(scores.counts_P[others].sum()), float(nats_P[others].sum()))
            for log_number, others in _OTHERS
        ]
        return min(0.0, max(bounds))

    def excess(self, tokens: Sequence[int], messages: Sequence[int]) -> list[tuple[int, float]]:
        """See `Detector.excess`: of the key and id that tell most, since any may have drawn a token."""
        symbols = [self._code.encode(message) for message in messages]
        found = []
        for position, context, token in scored(tokens):
            least = self._proving.one(context, token)
            for own in symbols:
                shift = int(own[self._carrying.position(context)])
                least = min(least, self._carrying.one(context, shift + token))
            # The least of several uniforms, as a uniform.
            least = -math.expm1((1 + len(symbols)) * math.log1p(-least))
            found.append((position, -math.log(least) - _USUAL))
        return found


class _Scores:
    """Evidence of tokens for each value of each symbol, nats, and how many tokens each symbol has."""

    def __init__(self) -> None:
        self.counts_P = np.zeros(NUM_SYMBOLS, np.int64)
        self.nats_PV = np.zeros((NUM_SYMBOLS, NUM_VALUES), np.float32)

    @property
    def num_scored(self) -> int:
        """How many tokens."""
        return int(self.counts_P.sum())

    def add(self, position: int, nats_V: _Nats) -> None:
        """Adds a token's evidence for each value of its symbol."""
        self.counts_P[position] += 1
        self.nats_PV[position] += nats_V

    def __add__(self, other: "_Scores") -> "_Scores":
        total = _Scores()
        total.counts_P = self.counts_P + other.counts_P
        total.nats_PV = self.nats_PV + other.nats_PV
        return total


def _head(proofs: Sequence[float]) -> tuple[int, float]:
    """The beginning of a text that proves most: its length, and the logarithm of the p-value, of all beginnings."""
    bets = [log_bet(i, float(total)) for i, total in enumerate(np.cumsum([0.0, *proofs]))]
    length = int(np.argmax(bets))
    return length, -bets[length]
