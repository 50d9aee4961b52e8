"""Our scheme: Gumbel-max sampling (Aaronson 2022) with two keys, one that proves the mark and one that carries the id.

The model gives each token a probability p. A key and the context give it a uniform number u (docs/decisions/0016). The
token with the smallest -ln(1 - u) / p is drawn. Each token is thus drawn with probability p, but a holder of the key
can see that drawn tokens have small u. The evidence in a token is -ln(u), a standard exponential in unmarked text, so
sums of evidence have an Erlang distribution. A sampler draws with the *proving* key until the mark is proved, then with
the *carrying* key until the id is certain, and then starts over (docs/decisions/0009).
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from deepseek.watermark.keys import WatermarkKey
from deepseek.watermark.tail_bounds import log_bet, log_erlang_bound, log_erlang_tail
from deepseek.watermark.text.gumbel_max import LEAST, gumbel_max
from deepseek.watermark.text.reed_solomon import ID_BITS, NUM_DATA, NUM_SYMBOLS, NUM_VALUES, SYMBOL_BITS, IdCode
from deepseek.watermark.text.scheme import CONTEXT, Bits, Detector, Evidence, Logits, Sampler, scored

PROVED = math.log(1e-9)
"""Log p-value at which a sampler considers the mark proved, computed from the tokens since it last started over."""

CARRIED = math.log(1e-40)
"""Log p-value at which a sampler considers the id certain. This value is far smaller than `PROVED`, because edits
remove evidence, and because a recovered id also proves the mark."""

HEAD_SHARE = ID_SHARE = 0.03
"""Shares of the false-alarm probability that are allotted to the evidence in the beginning of a text, and to the
evidence for the id (weighted Bonferroni). Each of the two can prove a mark; so can the evidence in the whole text,
which gets the rest. Small shares suffice, because these two tests find either plenty of evidence or none. Small shares
also hardly weaken detection in short texts, which depends on the whole text."""

_USUAL = 1.6
"""Evidence per token, in nats, that separates marked from unmarked text. The mean evidence per token is 1 in unmarked
text, and 2 or more in marked text."""

_CARRIES = math.log(1e-3)
_LOG_IDS = ID_BITS * math.log(2)
_HALF_PART = 64
_MANY_TOKENS = 4096

_Nats = npt.NDArray[np.float32]


def _other_symbols() -> Iterator[tuple[float, list[int]]]:
    """Yields log(n / w) and the set, for each set of positions in which the codewords of two ids may differ.

    Two codewords agree in at most two of the eight positions, so a set contains six, seven or eight positions. n is
    the number of codewords that agree with a given codeword outside the set, and w is the set's weight (weighted
    Bonferroni). The set of eight has a weight of 1/2. The weights of all sets of seven add up to 1/4, and so do the
    weights of all sets of six.
    """
    for num_common in range(NUM_DATA):
        sets = list(itertools.combinations(range(NUM_SYMBOLS), NUM_SYMBOLS - num_common))
        weight = (1 / 4 if num_common else 1 / 2) / len(sets)
        for others in sets:
            yield SYMBOL_BITS * (NUM_DATA - num_common) * math.log(2) - math.log(weight), list(others)


_OTHERS = tuple(_other_symbols())


class _Uniforms:
    """The uniform numbers that one subkey defines. Thread-safe."""

    def __init__(self, key: WatermarkKey, purpose: str) -> None:
        self.bits = Bits(key, f"gumbel/{purpose}")

    def of(self, context: Sequence[int], start: int, count: int) -> npt.NDArray[np.float64]:
        """Returns `count` uniforms of a context, starting at index `start`. Each is at least `LEAST` and below 1."""
        u_N = self.bits.uniforms(context, start, count)
        return np.maximum(u_N, LEAST, out=u_N)

    def one(self, context: Sequence[int], number: int) -> float:
        """Returns the uniform of a context at the index `number`."""
        return float(self.of(context, number, 1)[0])

    def position(self, context: Sequence[int]) -> int:
        """Returns the position, in the codeword, of the symbol that the token after this context carries."""
        return int.from_bytes(self.bits.seed((*context, 0), 8), "little") % NUM_SYMBOLS


class GumbelSampler(Sampler):
    """Draws tokens that carry an id.

    Args:
        key: Key of the mark.
        message: Id, 0 to 2^48 - 1.
        code: Error-correcting code for ids.
        random: Source of randomness for unmarked draws; unpredictable by default.
    """

    def __init__(
        self, key: WatermarkKey, message: int, code: IdCode, random: np.random.Generator | None = None
    ) -> None:
        super().__init__(random)
        self._proving, self._carrying = _Uniforms(key, "prove"), _Uniforms(key, "carry")
        self._symbols = code.encode(message)
        self._begin()

    def _begin(self) -> None:
        """Starts over with the proof and then the id, so that each passage of a long text has a complete mark."""
        self._num_scored = 0
        self._proof = self._carried = 0.0
        self._proves = True

    def _marked(self, logits_V: Logits, context: tuple[int, ...]) -> int:
        if self._proves:
            u_V = self._proving.bits.uniforms(context, 0, len(logits_V))
        else:
            u_V = self._carrying.bits.uniforms(context, self._shift(context), len(logits_V))
        # ln(-ln(1 - u)) - logit has its minimum at the same token as -ln(1 - u) / p, and needs no normalization.
        return gumbel_max(u_V, logits_V)

    def _weigh(self, context: tuple[int, ...], token: int) -> None:
        """Adds a token's evidence for both keys, and chooses the key of the next token."""
        self._num_scored += 1
        self._proof -= math.log(self._proving.one(context, token))
        self._carried -= math.log(self._carrying.one(context, self._shift(context) + token))
        # Once reached, a proof stays valid: later tokens with little evidence cannot undo it.
        self._proves = self._proves and log_bet(self._num_scored, self._proof) < -PROVED
        if self._is_carried():
            self._begin()

    def _is_carried(self) -> bool:
        """Returns whether the evidence for the id suffices.

        Computing the Erlang tail takes time linear in the number of tokens, so Chernoff's bound is tried first.
        """
        bound = _LOG_IDS + log_erlang_bound(self._num_scored, self._carried)
        # The last term of the tail, exp(-x) x^(n - 1) / (n - 1)!, is at most 1 + ln(x) nats below the bound (Stirling).
        # If the bound exceeds the threshold `CARRIED` by more than that, so does the tail. For very many tokens, the
        # bound alone is precise enough.
        if bound > CARRIED + 2 + math.log1p(self._carried) or self._num_scored > _MANY_TOKENS:
            return bound <= CARRIED
        return _LOG_IDS + log_erlang_tail(self._num_scored, self._carried) <= CARRIED

    def _shift(self, context: tuple[int, ...]) -> int:
        return int(self._symbols[self._carrying.position(context)])


class GumbelDetector(Detector):
    """Finds marks and ids of one key. Thread-safe."""

    def __init__(self, key: WatermarkKey, code: IdCode) -> None:
        self._proving, self._carrying = _Uniforms(key, "prove"), _Uniforms(key, "carry")
        self._code = code

    def weigh(self, tokens: Sequence[int]) -> Evidence:
        """See `Detector.weigh`."""
        return self._weighed(tokens, lambda _position, _nats_V: None)

    def weigh_parts(self, tokens: Sequence[int], check: Callable[[], None]) -> tuple[Evidence, list[Evidence]]:
        """See `Detector.weigh_parts`. Parts have 128, 256, 512, ... tokens; parts of one length overlap by half."""
        newest: list[_Scores] = []  # for each part length, the latest half of a part
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
                half = part  # this part is half of a part that is twice as long

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
        """Returns a token's evidence for each value of its symbol, (65536,), in nats."""
        return -np.log(self._carrying.of(context, token, NUM_VALUES).astype(np.float32))

    def _weighed(self, tokens: Sequence[int], add: Callable[[int, _Nats], None]) -> Evidence:
        """Returns the evidence in a text.

        Calls `add` for each scored token, with the position of the symbol that the token carries and with the evidence
        in the token for each value of this symbol.
        """
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
        """Returns an upper bound on the log probability that a text with another id has as much evidence for this id.

        The codewords of two ids have at most two symbols in common. So in such a text, the evidence for at least six
        symbols of this id arises by chance.
        """
        nats_P = scores.nats_PV[np.arange(NUM_SYMBOLS), self._code.encode(message)]
        bounds = [
            log_number + log_erlang_tail(int(scores.counts_P[others].sum()), float(nats_P[others].sum()))
            for log_number, others in _OTHERS
        ]
        return min(0.0, max(bounds))

    def excess(self, tokens: Sequence[int], messages: Sequence[int]) -> list[tuple[int, float]]:
        """See `Detector.excess`.

        A token may have been drawn with the proving key, or with the carrying key and any of the ids. The score is that
        of the possibility with the most evidence.
        """
        symbols = [self._code.encode(message) for message in messages]
        found = []
        for position, context, token in scored(tokens):
            least = self._proving.one(context, token)
            for own in symbols:
                shift = int(own[self._carrying.position(context)])
                least = min(least, self._carrying.one(context, shift + token))
            # Transforms the minimum of several uniforms into a uniform.
            least = -math.expm1((1 + len(symbols)) * math.log1p(-least))
            found.append((position, -math.log(least) - _USUAL))
        return found


class _Scores:
    """Evidence for each value of each symbol of the id, in nats, and the number of tokens per symbol."""

    def __init__(self) -> None:
        self.counts_P = np.zeros(NUM_SYMBOLS, np.int64)
        self.nats_PV = np.zeros((NUM_SYMBOLS, NUM_VALUES), np.float32)

    @property
    def num_scored(self) -> int:
        """Number of tokens."""
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
    """Returns the length of the prefix with the strongest proof, and a log p-value corrected for this choice."""
    bets = [log_bet(i, float(total)) for i, total in enumerate(np.cumsum([0.0, *proofs]))]
    length = int(np.argmax(bets))
    return length, -bets[length]
