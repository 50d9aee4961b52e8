"""The interface of a text mark scheme: a sampler that draws the next token, and a detector that scores tokens.

A marked draw depends on the key and on the context, i.e. the `CONTEXT` preceding tokens, which a detector also knows.
If the same context has occurred earlier in the text, the next token is drawn without a mark and is not scored: the same
context would give the same pseudo-random numbers, so the draw would be neither new evidence nor random.
"""

import hashlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from numpy.random.bit_generator import ISeedSequence

from deepseek.watermark.arrays import Real
from deepseek.watermark.keys import WatermarkKey
from deepseek.watermark.text.tokens import check_logits, check_token, check_tokens

CONTEXT = 2
"""Number of preceding tokens on which a draw depends. Replacing a token spoils its score and the scores of the
`CONTEXT` tokens after it, so the longer the context, the fewer replacements a mark survives."""

Logits = Real
Probabilities = npt.NDArray[np.float64]

_PER_BLOCK = 4


class Contexts:
    """The contexts of a growing sequence, i.e. the tokens that precede each token. Not thread-safe.

    Args:
        length: Number of tokens per context.
    """

    def __init__(self, length: int = CONTEXT) -> None:
        self._length = length
        self._last: tuple[int, ...] = ()
        self._seen: set[tuple[int, ...]] = set()

    def current(self) -> tuple[int, ...] | None:
        """Returns the next token's context; None if there are too few tokens or the context has occurred before."""
        return self._last if len(self._last) == self._length and self._last not in self._seen else None

    def add(self, token: int) -> None:
        """Appends a token to the sequence."""
        if len(self._last) == self._length:
            self._seen.add(self._last)
        self._last = (*self._last, token)[-self._length :]


class Sampler(ABC):
    """Draws the tokens of one sequence, in order. Not thread-safe.

    Args:
        random: Source of randomness for unmarked draws; unpredictable by default.
    """

    def __init__(self, random: np.random.Generator | None = None) -> None:
        self._random = random or np.random.default_rng()
        self._contexts = Contexts()

    def draw(self, logits_V: Logits) -> int:
        """Draws the next token, appends it to the sequence, and returns it.

        Args:
            logits_V: Next-token logits after temperature, top-k and the like, (vocabulary,); -inf excludes a token.

        Raises:
            InvalidArgument: BAD_LOGITS if the logits are invalid; see `check_logits`.
        """
        token = self.choose(logits_V)
        self.observe(token)
        return token

    @property
    def has_mark(self) -> bool:
        """Whether the next token will carry a mark, i.e. whether its context is new."""
        return self._contexts.current() is not None

    def choose(self, logits_V: Logits) -> int:
        """Draws a token as `draw` does and returns it, but does not append it to the sequence."""
        logits_V = check_logits(logits_V)
        context = self._contexts.current()
        return draw_from(softmax(logits_V), self._random) if context is None else self._marked(logits_V, context)

    def observe(self, token: int) -> None:
        """Appends a token to the sequence, whether or not this sampler drew it.

        Raises:
            InvalidArgument: BAD_TOKEN if the token is invalid; see `check_token`.
        """
        token = check_token(token)
        context = self._contexts.current()
        if context is not None:
            self._weigh(context, token)
        self._contexts.add(token)

    @abstractmethod
    def _marked(self, logits_V: Logits, context: tuple[int, ...]) -> int:
        """Draws and returns a marked token for a context that is new."""

    def _weigh(self, context: tuple[int, ...], token: int) -> None:  # noqa: B027  most schemes record nothing
        """Records the evidence in a token whose context is new. By default, does nothing."""


@dataclass(frozen=True)
class Evidence:
    """The evidence for a mark in some tokens. All probabilities are given as natural logarithms.

    Attributes:
        num_scored: Number of tokens that could be scored.
        log_p: p-value, i.e. the probability that text without this mark has at least as much evidence.
        id: Likeliest id; None if marks of the scheme carry none.
        log_p_id: Probability that text without this mark has at least as much evidence for some id; 0 if `id` is None.
        log_p_wrong: Upper bound on the probability that text with another id has at least as much evidence for `id`; 0
            if `id` is None.
    """

    num_scored: int
    log_p: float
    id: int | None = None
    log_p_id: float = 0.0
    log_p_wrong: float = 0.0

    def among(self, number: int) -> "Evidence":
        """Returns this evidence with the probabilities of its id multiplied by `number`.

        This is the Bonferroni correction for having chosen this evidence as the strongest among `number` candidates.
        """
        log_number = math.log(max(1, number))
        log_p_id, log_p_wrong = min(0.0, self.log_p_id + log_number), min(0.0, self.log_p_wrong + log_number)
        return replace(self, log_p_id=log_p_id, log_p_wrong=log_p_wrong)


class Detector(ABC):
    """Scores tokens from any source. Thread-safe."""

    @abstractmethod
    def weigh(self, tokens: Sequence[int]) -> Evidence:
        """Returns the evidence in the tokens. An empty text has no evidence."""

    def weigh_stretch(
        self, tokens: Sequence[int], start: int, end: int, messages: Sequence[int]
    ) -> tuple[float, int | None]:
        """Scores one stretch of a text.

        Args:
            tokens: Tokens of the text.
            start: Index of the first token of the stretch.
            end: Index after the last token of the stretch.
            messages: Ids that the text is known to carry.

        Returns:
            The log p-value of the stretch alone, and which of the known ids the stretch carries (None if uncertain).
        """
        return self.weigh(tokens[max(0, start - CONTEXT) : end]).log_p, None

    def weigh_parts(self, tokens: Sequence[int], check: Callable[[], None]) -> tuple[Evidence, list[Evidence]]:
        """Returns the evidence in a text, and in parts of the text that may carry other ids.

        Args:
            tokens: Tokens of the text.
            check: Function that is called repeatedly; it may raise, e.g. after a deadline.

        Returns:
            The result of `weigh` for the whole text, and the evidence in each part, corrected for the number of parts.
        """
        check()
        return self.weigh(tokens), []

    @abstractmethod
    def excess(self, tokens: Sequence[int], messages: Sequence[int]) -> list[tuple[int, float]]:
        """Returns a score per token that separates marked from unmarked tokens.

        Args:
            tokens: Tokens of the text.
            messages: Ids that the text is known to carry.

        Returns:
            The position and score of each token that can be scored, in order. Scores have a variance of about 1. Their
            mean is below 0 in unmarked text, and above 0 in marked text.
        """


def scored(tokens: Sequence[int], length: int = CONTEXT) -> Iterator[tuple[int, tuple[int, ...], int]]:
    """Yields (position, context, token) for every token that can be scored, i.e. whose context is complete and new."""
    contexts = Contexts(length)
    for position, token in enumerate(check_tokens(tokens)):
        if (context := contexts.current()) is not None:
            yield position, context, token
        contexts.add(token)


class _KeyWords(ISeedSequence):
    """Seeds Philox directly with the words of a key.

    NumPy's `Philox(key=...)` would first collect and hash entropy, and then replace it with the key. Collecting entropy
    takes longer than a short draw.
    """

    def __init__(self, words: npt.NDArray[np.uint64]) -> None:
        self._words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint64) -> npt.NDArray[np.uint64]:
        """Returns the words of the key. Philox requests two words of 64 bits."""
        return self._words


class Bits:
    """64 pseudo-random bits for each context and next token, from Philox4x64-10 (Salmon et al. 2011). Thread-safe.

    A context has one 64-bit word per token of the vocabulary. Words 4i to 4i + 3 are Philox's output for the counter
    i + 1 (NumPy increments the counter before a draw). The two words of Philox's key are the 16-byte BLAKE2b hash of
    the context's tokens, which are encoded in 4 bytes each. The hash is keyed with the subkey for `purpose`. All
    integers are little-endian. Anyone who has the key can compute any one word alone, in any programming language.

    Args:
        key: Key of the mark.
        purpose: Name of the subkey.
    """

    def __init__(self, key: WatermarkKey, purpose: str) -> None:
        self._key = key.subkey(f"text/{purpose}")

    def words(self, context: Sequence[int], start: int, count: int) -> npt.NDArray[np.uint64]:
        """Returns `count` words of a context, starting at the index `start`."""
        skipped = start % _PER_BLOCK
        return self._philox(context, start).random_raw(skipped + count)[skipped:]

    def uniforms(self, context: Sequence[int], start: int, count: int) -> npt.NDArray[np.float64]:
        """Returns the same words as `words`, converted to uniforms in [0, 1) as in `arrays.uniforms`."""
        skipped = start % _PER_BLOCK
        return np.random.Generator(self._philox(context, start)).random(skipped + count)[skipped:]

    def _philox(self, context: Sequence[int], start: int) -> np.random.Philox:
        """Returns a generator that starts at the block of four words that contains the word with the index `start`."""
        key: Any = _KeyWords(np.frombuffer(self.seed(context, 16), "<u8"))
        return np.random.Philox(key, counter=np.array([start // _PER_BLOCK, 0, 0, 0], "<u8"))

    def seed(self, context: Sequence[int], num_bytes: int) -> bytes:
        """Returns pseudo-random bytes that depend only on the key and the context (keyed BLAKE2b, RFC 7693)."""
        data = b"".join(token.to_bytes(4, "little") for token in context)
        return hashlib.blake2b(data, key=self._key, digest_size=num_bytes).digest()


def draw_from(probabilities_V: Probabilities, random: np.random.Generator) -> int:
    """Draws a token with the given probabilities and returns it."""
    cumulated_V = probabilities_V.cumsum()
    return int(cumulated_V.searchsorted(random.random() * cumulated_V[-1], "right"))


def softmax(logits_V: Logits) -> Probabilities:
    """Returns the probabilities of all tokens, given their logits."""
    weights_V = np.exp(logits_V.astype(np.float64) - logits_V.max())
    return np.asarray(weights_V / weights_V.sum(), np.float64)
