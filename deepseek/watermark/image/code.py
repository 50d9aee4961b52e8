"""The payload of an image as bits: BCH(127, 64), decoded softly.

64 bits are the coefficients of a polynomial over GF(2), and a codeword a multiple of the generator, which has the first
20 powers of a primitive element of GF(2^7) among its roots (Bose and Ray-Chaudhuri 1960, Hocquenghem 1959): any two
codewords differ in 21 bits or more.

Decoding is by ordered statistics (Fossorier and Lin 1995, order 2): the 64 most reliable independent bits are believed
but for up to two of them, each such belief is a codeword, and the one that agrees best with all soft bits wins. That is
close to maximum likelihood, and a few small matrix products.
"""

import itertools
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
        self._flips = _patterns(2)

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
        believed = (soft[basis] > 0).astype(np.uint8)
        # In floats, which are multiplied many times faster; sums of 64 ones are exact.
        words = (believed ^ self._flips).astype(np.float32) @ matrix.astype(np.float32) % 2
        agreements = (2 * words - 1) @ soft
        best = np.argsort(-agreements, kind="stable")[:num_words]
        return [
            Word(int("".join(map(str, words[index, :NUM_DATA].astype(int))), 2), float(agreements[index]))
            for index in best
        ]


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
    matrix = matrix.copy()
    basis: list[int] = []
    for column in order:
        row = len(basis)
        pivots = np.flatnonzero(matrix[row:, column])
        if not len(pivots):
            continue
        pivot = row + int(pivots[0])
        matrix[[row, pivot]] = matrix[[pivot, row]]
        others = matrix[:, column].astype(bool)
        others[row] = False
        matrix[others] ^= matrix[row]
        basis.append(int(column))
        if len(basis) == NUM_DATA:
            break
    return matrix, np.array(basis)


def _patterns(order: int) -> Bits:
    """All patterns of up to `order` ones among the data bits."""
    chosen = [c for number in range(order + 1) for c in itertools.combinations(range(NUM_DATA), number)]
    patterns = np.zeros((len(chosen), NUM_DATA), np.uint8)
    for pattern, ones in zip(patterns, chosen, strict=True):
        pattern[list(ones)] = 1
    return patterns
