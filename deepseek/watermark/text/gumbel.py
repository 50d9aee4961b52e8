"""The scheme of ours: Gumbel sampling with two keys, one that proves and one that carries the id.

Gumbel-max sampling (Aaronson 2022): with a uniform u for each token, the token with the least -ln(1 - u) / p is drawn,
which has the probabilities p exactly; whoever knows the key sees that the u of drawn tokens are small. Evidence is
-ln(u), a standard exponential for text that has no mark, so sums are Erlang and p-values exact.

Two keys: by the *proving* key tokens are drawn until the mark is proved, then by the *carrying* key until the id is
sure, then by the one that is behind. The sampler knows the evidence there is so far; a detector needs not know whose
turn it was, since it looks at both (docs/decisions/0009). So short text is proved as well as if it carried nothing, no
evidence is spent where there is enough, and each token is still drawn by its probabilities, as the choice of the key
depends on tokens before only.

The id is six symbols (`code`). A context says which of them a token works for, and the symbol shifts the uniforms
along the vocabulary: for one symbol every token has a uniform of its own, for one token every symbol has.
"""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from deepseek.watermark.arrays import uniforms
from deepseek.watermark.keys import WatermarkKey
from deepseek.watermark.tail import log_erlang_bound, log_erlang_tail
from deepseek.watermark.text.code import ID_BITS, NUM_SYMBOLS, NUM_VALUES, IdCode
from deepseek.watermark.text.scheme import CONTEXT, Bits, Detector, Evidence, Logits, Sampler, scored

PROVED = math.log(1e-9)
"""Logarithm of the p-value at which a sampler takes a mark for proved."""

CARRIED = math.log(1e-40)
"""That at which it takes an id for carried. Far beyond proof, since edits take from it, and an id that is found proves
the mark as well."""

ID_SHARE = 0.01
"""Part of the false alarms that is left to the id, which can prove a mark as well (Bonferroni, with weights): it has
evidence in plenty where it has any, and short text, which has none, loses nothing."""

_USUAL = 1.6
"""Evidence of a token, nats, between 1, its mean without a mark, and 2 and more with one."""

_CARRIES = math.log(1e-3)
_LOG_IDS = ID_BITS * math.log(2)
_HALF_PART = 64
_MANY_TOKENS = 4096
_LEAST = 2.0**-54


class _Uniforms:
    """Uniforms of one key. Thread-safe."""

    def __init__(self, key: WatermarkKey, purpose: str) -> None:
        self._bits = Bits(key, f"gumbel/{purpose}")

    def of(self, context: Sequence[int], start: int, count: int) -> npt.NDArray[np.float64]:
        """Those behind a context with the numbers from `start` on, each above 0 and below 1."""
        return np.maximum(uniforms(self._bits.words(context, start, count)), _LEAST)

    def one(self, context: Sequence[int], number: int) -> float:
        """A single one of them."""
        return float(self.of(context, number, 1)[0])

    def position(self, context: Sequence[int]) -> int:
        """The symbol that tokens behind a context work for."""
        return int.from_bytes(self._bits.seed((*context, 0), 8), "little") % NUM_SYMBOLS


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
        self._num_scored = 0
        self._proof = self._carried = 0.0
        self._proves = True

    def _marked(self, logits_V: Logits, context: tuple[int, ...]) -> int:
        if self._proves:
            u_V = self._proving.of(context, 0, len(logits_V))
        else:
            u_V = self._carrying.of(context, self._shift(context), len(logits_V))
        # ln(-ln(1 - u)) - logit is least where -ln(1 - u) / p is, and needs no normalisation.
        return int(np.argmin(np.log(-np.log1p(-u_V)) - logits_V))

    def _weigh(self, context: tuple[int, ...], token: int) -> None:
        """Adds the evidence for both keys, of which one had none but by chance, and settles whose turn is next."""
        self._num_scored += 1
        self._proof -= math.log(self._proving.one(context, token))
        self._carried -= math.log(self._carrying.one(context, self._shift(context) + token))
        # In very long texts a bound will do: a tail takes as many steps as there are tokens.
        tail = log_erlang_tail if self._num_scored <= _MANY_TOKENS else log_erlang_bound
        proof = tail(self._num_scored, self._proof)
        carried = _LOG_IDS + tail(self._num_scored, self._carried)
        self._proves = proof > PROVED or carried < min(CARRIED, proof)

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
        whole = _Scores()
        for _, context, token in scored(tokens):
            self._add(whole, context, token)
        return self._evidence(whole)

    def weigh_parts(self, tokens: Sequence[int], check: Callable[[], None]) -> tuple[Evidence, list[Evidence]]:
        """See `Detector.weigh_parts`: parts of 128, 256, 512, ... tokens, each of which overlaps half of the next."""
        newest: list[_Scores] = []  # of each length, half a part
        counts: list[int] = []
        found: list[Evidence] = []
        whole, scores = _Scores(), _Scores()
        for _, context, token in scored(tokens):
            self._add(scores, context, token)
            if scores.num_scored < _HALF_PART:
                continue
            check()
            half, scores = scores, _Scores()
            whole += half
            for level in itertools.count():
                if level == len(newest):
                    newest.append(half)
                    counts.append(1)
                    break
                part = newest[level] + half
                found.append(self._decoded(part, quick=True))
                newest[level] = half
                counts[level] += 1
                if counts[level] % 2:
                    break
                half = part  # and half of one that is twice as long
        num_parts = math.log(max(1, len(found)))
        parts = [replace(evidence, log_p_id=min(0.0, evidence.log_p_id + num_parts)) for evidence in found]
        return self._evidence(whole + scores), parts

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

    def _add(self, scores: "_Scores", context: tuple[int, ...], token: int) -> None:
        scores.num_scored += 1
        scores.proof -= math.log(self._proving.one(context, token))
        uniforms_V = self._carrying.of(context, token, NUM_VALUES)
        scores.nats_PV[self._carrying.position(context)] -= np.log(uniforms_V).astype(np.float32)

    def _evidence(self, whole: "_Scores") -> Evidence:
        evidence = self._decoded(whole)
        log_p_proof = log_erlang_tail(whole.num_scored, whole.proof)
        log_p = min(0.0, log_p_proof - math.log1p(-ID_SHARE), evidence.log_p_id - math.log(ID_SHARE))
        return replace(evidence, log_p=log_p)

    def _decoded(self, scores: "_Scores", *, quick: bool = False) -> Evidence:
        decoded = self._code.decode(scores.nats_PV, quick=quick)
        log_p_id = min(0.0, _LOG_IDS + log_erlang_tail(scores.num_scored, decoded.score))
        return Evidence(scores.num_scored, 0.0, decoded.id, log_p_id, decoded.score - decoded.runner_up)

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
    """Evidence of tokens, nats: of the mark, and for each value of each symbol."""

    def __init__(self) -> None:
        self.num_scored = 0
        self.proof = 0.0
        self.nats_PV = np.zeros((NUM_SYMBOLS, NUM_VALUES), np.float32)

    def __add__(self, other: "_Scores") -> "_Scores":
        total = _Scores()
        total.num_scored = self.num_scored + other.num_scored
        total.proof = self.proof + other.proof
        total.nats_PV = self.nats_PV + other.nats_PV
        return total
