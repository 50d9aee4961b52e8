"""The payload of an image as bits: BCH(127, 64), decoded softly.

64 bits are the coefficients of a polynomial over GF(2), and a codeword a multiple of the generator, which has the first
20 powers of a primitive element of GF(2^7) among its roots (Bose and Ray-Chaudhuri 1960, Hocquenghem 1959): any two
codewords differ in 21 bits or more.

Decoding is by ordered statistics (Fossorier and Lin 1995, order 3): the 64 most reliable independent bits are believed
but for up to three of them, each such belief is a codeword, and the one that agrees best with all soft bits wins. That
is close to maximum likelihood. With signs for bits, a codeword is a product of rows of the code's matrix, so all
agreements are one product of matrices.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deepseek.watermark.arrays import Real

NUM_BITS = 127
NUM_DATA = 64
_POLYNOMIAL = 0b10001001  # x^7 + x^3 + 1, primitive
_NUM_ROOTS = 20

Bits = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Word:
    """A codeword that soft bits were decoded to.

    Attributes:
        data: Its 64 bits as a number, the first the highest.
        agreement: Sum of the soft bits, each with the sign that the codeword gives it.
    """

    data: int
    agreement: float


class BchCode:
    """Encodes and decodes. Immutable, thread-safe."""

    def __init__(self) -> None:
        generator = _generator()
        rows = np.zeros((NUM_DATA, NUM_BITS), np.uint8)
        for row in range(NUM_DATA):
            for degree in range(NUM_BITS - NUM_DATA + 1):
                rows[row, row + degree] = generator >> degree & 1
        self._matrix = _reduced(rows, np.arange(NUM_BITS))[0]  # systematic: the data come first
        # Up to two rows, of which 0 is none, and beside them the rows that may be a third.
        self._pairs = np.array([(0, 0), *((i, j) for j in range(1, NUM_DATA + 1) for i in range(j))]).T
        self._is_third = (np.arange(NUM_DATA + 1) == 0) | (np.arange(NUM_DATA + 1) > self._pairs[1][:, None])
        self._is_third &= (self._pairs[0] > 0)[:, None] | (np.arange(NUM_DATA + 1) == 0)

    def encode(self, data: int) -> Bits:
        """The codeword of 64 bits, (127,), zeros and ones."""
        bits = np.array([data >> NUM_DATA - 1 - i & 1 for i in range(NUM_DATA)], np.uint8)
        return bits @ self._matrix % 2

    def decode(self, soft: Real, num_words: int = 1) -> list[Word]:
        """The codewords that agree best with soft bits, best first.

        Args:
            soft: (127,), above 0 where a bit is rather 1, larger where that is surer.
            num_words: How many.
        """
        matrix, basis = _reduced(self._matrix, np.argsort(-np.abs(soft), kind="stable"))
        believed = (soft[basis] > 0).astype(np.uint8) @ matrix % 2
        rows = np.concatenate([np.zeros_like(matrix[:1]), matrix])
        signs = 1 - 2 * rows.astype(np.float32)
        of_pairs = signs[self._pairs[0]] * signs[self._pairs[1]] * (soft * (2.0 * believed - 1)).astype(np.float32)
        agreements = np.where(self._is_third, of_pairs @ signs.T, -np.inf)
        best = np.argpartition(-agreements.ravel(), num_words)[:num_words]
        words = []
        for pair, third in zip(*np.unravel_index(best, agreements.shape), strict=True):
            word = believed ^ rows[self._pairs[0, pair]] ^ rows[self._pairs[1, pair]] ^ rows[third]
            data = int("".join(map(str, word[:NUM_DATA])), 2)
            words.append(Word(data, float((2.0 * word - 1) @ soft)))
        return sorted(words, key=lambda word: -word.agreement)


def _generator() -> int:
    """The product of the minimal polynomials of the roots, a bit a coefficient, the lowest first."""
    powers = [1]
    for _ in range(NUM_BITS - 1):
        value = powers[-1] << 1
        powers.append(value ^ _POLYNOMIAL if value & 1 << 7 else value)
    exponents = {exponent * 2**i % NUM_BITS for exponent in range(1, _NUM_ROOTS + 1) for i in range(7)}
    logarithms = {value: exponent for exponent, value in enumerate(powers)}
    product = [1]
    for exponent in exponents:  # times (x + root)
        scaled = [powers[(logarithms[c] + exponent) % NUM_BITS] if c else 0 for c in product]
        product = [a ^ b for a, b in zip([0, *product], [*scaled, 0], strict=True)]
    return sum(coefficient << degree for degree, coefficient in enumerate(product))


def _reduced(matrix: Bits, order: npt.NDArray[np.intp]) -> tuple[Bits, npt.NDArray[np.intp]]:
    """The same code's matrix with an identity in the first independent columns of an order; and these columns."""
    # Rows as numbers, whose first column is the highest bit: a sum of rows is one operation.
    rows = [int.from_bytes(row.tobytes(), "big") for row in np.packbits(matrix, axis=1)]
    width = 8 * -(-matrix.shape[1] // 8)
    basis: list[int] = []
    for column in order:
        place, bit = len(basis), 1 << width - 1 - int(column)
        pivot = next((i for i in range(place, len(rows)) if rows[i] & bit), None)
        if pivot is None:
            continue
        rows[place], rows[pivot] = rows[pivot], rows[place]
        own = rows[place]
        rows = [row ^ own if row & bit and i != place else row for i, row in enumerate(rows)]
        basis.append(int(column))
        if len(basis) == len(rows):
            break
    packed = np.frombuffer(b"".join(row.to_bytes(width // 8, "big") for row in rows), np.uint8)
    return np.unpackbits(packed.reshape(len(rows), -1), axis=1)[:, : matrix.shape[1]], np.array(basis)
