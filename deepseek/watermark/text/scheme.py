"""What every scheme of text marks does: draw the next token of a sequence, and score tokens afterwards.

A mark hangs on context: what is drawn depends on a key and the `CONTEXT` tokens before, which a detector sees too. A
context that comes again is drawn without a mark and scored once only, since the same draw twice would be no second
evidence, and no fresh chance either.
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
"""Tokens that a mark hangs on. With more, fewer survive where words are replaced: each replacement spoils the scores of
as many tokens behind it, and its own."""

Logits = Real
Probabilities = npt.NDArray[np.float64]

_PER_BLOCK = 4


class Contexts:
    """The contexts of a sequence, as it grows. Not thread-safe.

    Args:
        length: Tokens a context.
    """

    def __init__(self, length: int = CONTEXT) -> None:
        self._length = length
        self._last: tuple[int, ...] = ()
        self._seen: set[tuple[int, ...]] = set()

    def current(self) -> tuple[int, ...] | None:
        """The context of the token that comes next; None if there is none yet, or it was one before."""
        return self._last if len(self._last) == self._length and self._last not in self._seen else None

    def add(self, token: int) -> None:
        """Goes on by a token."""
        if len(self._last) == self._length:
            self._seen.add(self._last)
        self._last = (*self._last, token)[-self._length :]


class Sampler(ABC):
    """Draws the tokens of one sequence, in order. Not thread-safe.

    Args:
        random: Draws where there is no mark; unpredictable by default.
    """

    def __init__(self, random: np.random.Generator | None = None) -> None:
        self._random = random or np.random.default_rng()
        self._contexts = Contexts()

    def draw(self, logits_V: Logits) -> int:
        """Draws the next token and goes on by it.

        Args:
            logits_V: (vocabulary,), the model's, after temperature, top-k and the like; -inf for what cannot come.

        Returns:
            The token.

        Raises:
            InvalidArgument: BAD_LOGITS.
        """
        token = self.choose(logits_V)
        self.observe(token)
        return token

    @property
    def has_mark(self) -> bool:
        """Whether the next token will have a mark: there is a context before it, and it is new."""
        return self._contexts.current() is not None

    def choose(self, logits_V: Logits) -> int:
        """Draws a token as `draw` does, and stays where it is."""
        logits_V = check_logits(logits_V)
        context = self._contexts.current()
        return plain(softmax(logits_V), self._random) if context is None else self._marked(logits_V, context)

    def observe(self, token: int) -> None:
        """Appends a token, whoever chose it.

        Raises:
            InvalidArgument: BAD_TOKEN.
        """
        token = check_token(token)
        context = self._contexts.current()
        if context is not None:
            self._weigh(context, token)
        self._contexts.add(token)

    @abstractmethod
    def _marked(self, logits_V: Logits, context: tuple[int, ...]) -> int:
        """Draws a token behind a context that is new."""

    def _weigh(self, context: tuple[int, ...], token: int) -> None:  # noqa: B027  most have nothing to note
        """Takes note of a token behind a context that was new; by default of none."""


@dataclass(frozen=True)
class Evidence:
    """What tokens tell of a mark.

    Attributes:
        num_scored: Tokens that could be scored.
        log_p: Natural logarithm of the p-value: the probability that text without this mark tells as much.
        id: The likeliest id; None if the scheme carries none.
        log_p_id: That text without this mark tells as much of any id; 0 without one.
        log_p_wrong: A bound, that text which carries one other id tells as much of this one; 0 without one.
    """

    num_scored: int
    log_p: float
    id: int | None = None
    log_p_id: float = 0.0
    log_p_wrong: float = 0.0

    def among(self, number: int) -> "Evidence":
        """The same, corrected for a choice among this many (Bonferroni)."""
        log_number = math.log(max(1, number))
        log_p_id, log_p_wrong = min(0.0, self.log_p_id + log_number), min(0.0, self.log_p_wrong + log_number)
        return replace(self, log_p_id=log_p_id, log_p_wrong=log_p_wrong)


class Detector(ABC):
    """Scores tokens, of a sampler or of anybody. Thread-safe."""

    @abstractmethod
    def weigh(self, tokens: Sequence[int]) -> Evidence:
        """Tells what tokens tell; of none, nothing."""

    def weigh_stretch(
        self, tokens: Sequence[int], start: int, end: int, messages: Sequence[int]
    ) -> tuple[float, int | None]:
        """Logarithm of the p-value of a stretch alone, and which of these ids it carries, if any."""
        return self.weigh(tokens[max(0, start - CONTEXT) : end]).log_p, None

    def weigh_parts(self, tokens: Sequence[int], check: Callable[[], None]) -> tuple[Evidence, list[Evidence]]:
        """Evidence of a text, and of parts of it that may carry ids of their own.

        Args:
            tokens: The text.
            check: Called now and then; may raise, e.g. when time is over.

        Returns:
            As `weigh`, and of each part, corrected for their number.
        """
        check()
        return self.weigh(tokens), []

    @abstractmethod
    def excess(self, tokens: Sequence[int], messages: Sequence[int]) -> list[tuple[int, float]]:
        """Tells marked tokens from others, token by token.

        Args:
            tokens: The text.
            messages: The ids that it is known to carry.

        Returns:
            Positions of tokens that can be scored, in order, and scores with a variance of about 1: below 0 on
            average without a mark, above 0 with one.
        """


def scored(tokens: Sequence[int], length: int = CONTEXT) -> Iterator[tuple[int, tuple[int, ...], int]]:
    """Yields position, context and token of every token that can be scored."""
    contexts = Contexts(length)
    for position, token in enumerate(check_tokens(tokens)):
        if (context := contexts.current()) is not None:
            yield position, context, token
        contexts.add(token)


class _KeyWords(ISeedSequence):
    """Seeds Philox with the words of its key. `Philox(key=...)` first draws and hashes entropy, which the key then
    replaces; that takes longer than a short draw."""

    def __init__(self, words: npt.NDArray[np.uint64]) -> None:
        self._words = words

    def generate_state(self, n_words: int, dtype: Any = np.uint64) -> npt.NDArray[np.uint64]:
        """Returns the words. Philox asks for two of 64 bits."""
        return self._words


class Bits:
    """64 pseudo-random bits for each token behind a context, by Philox4x64-10 (Salmon et al. 2011). Thread-safe.

    Block i of a context has the words 4i to 4i + 3, and is what Philox makes of the counter i + 1 (NumPy counts before
    it draws). The two words of Philox's key are 16 bytes of BLAKE2b, with the subkey for its key, over the context's
    tokens, 4 bytes each, all little-endian. So whoever knows the key can compute any word alone, in any language.

    Args:
        key: The key.
        purpose: Of which of its subkeys.
    """

    def __init__(self, key: WatermarkKey, purpose: str) -> None:
        self._key = key.subkey(f"text/{purpose}")

    def words(self, context: Sequence[int], start: int, count: int) -> npt.NDArray[np.uint64]:
        """The words with the numbers from `start` on."""
        skipped = start % _PER_BLOCK
        return self._philox(context, start).random_raw(skipped + count)[skipped:]

    def uniforms(self, context: Sequence[int], start: int, count: int) -> npt.NDArray[np.float64]:
        """The same words as uniforms from 0 to below 1, as `arrays.uniforms` makes them."""
        skipped = start % _PER_BLOCK
        return np.random.Generator(self._philox(context, start)).random(skipped + count)[skipped:]

    def _philox(self, context: Sequence[int], start: int) -> np.random.Philox:
        """Philox at the block of the word with the number `start`."""
        key: Any = _KeyWords(np.frombuffer(self.seed(context, 16), "<u8"))
        return np.random.Philox(key, counter=np.array([start // _PER_BLOCK, 0, 0, 0], "<u8"))

    def seed(self, context: Sequence[int], num_bytes: int) -> bytes:
        """Pseudo-random bytes of a context alone (BLAKE2b with a key, RFC 7693)."""
        data = b"".join(token.to_bytes(4, "little") for token in context)
        return hashlib.blake2b(data, key=self._key, digest_size=num_bytes).digest()


def plain(probabilities_V: Probabilities, random: np.random.Generator) -> int:
    """Draws a token without a mark."""
    cumulated_V = probabilities_V.cumsum()
    return int(cumulated_V.searchsorted(random.random() * cumulated_V[-1], "right"))


def softmax(logits_V: Logits) -> Probabilities:
    """Probabilities of logits."""
    weights_V = np.exp(logits_V.astype(np.float64) - logits_V.max())
    return np.asarray(weights_V / weights_V.sum(), np.float64)
