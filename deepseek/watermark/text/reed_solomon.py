"""The error-correcting code for ids in text: Reed-Solomon over GF(2^16), with soft-decision decoding.

A 48-bit id defines the three coefficients of a polynomial, and its codeword is the polynomial's values at eight points
(Reed and Solomon 1960). Two codewords agree in at most two symbols, so strong evidence in some positions makes up for
weak evidence in others. docs/decisions/0009 explains the size and the number of the symbols.
"""

import itertools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from deepseek.watermark.arrays import Real
from deepseek.watermark.ids import ID_BITS as ID_BITS

SYMBOL_BITS = 16
NUM_VALUES = 1 << SYMBOL_BITS
NUM_SYMBOLS = 8
NUM_DATA = 3
_MAX_RANKS = 120
_POLYNOMIAL = 0x1100B  # x^16 + x^12 + x^3 + x + 1, primitive

Symbols = npt.NDArray[np.int32]


def _tables() -> tuple[Symbols, Symbols]:
    """Returns the field's tables of powers and logarithms. The entry for log(0) makes every product with 0 equal 0."""
    powers, logarithms = np.zeros(4 * NUM_VALUES + 1, np.int32), np.full(NUM_VALUES, 2 * NUM_VALUES, np.int32)
    value = 1
    for exponent in range(NUM_VALUES - 1):
        powers[exponent] = powers[exponent + NUM_VALUES - 1] = value
        logarithms[value] = exponent
        value <<= 1
        if value & NUM_VALUES:
            value ^= _POLYNOMIAL
    return powers, logarithms


def _rank_triples(most: int) -> Symbols:
    """Returns all triples of ranks, (3, number), whose product is at most `most`.

    For the product, ranks count from 1; in the result, they count from 0.
    """
    triples = []
    for first in range(1, most + 1):
        for second in range(1, most // first + 1):
            thirds = np.arange(most // (first * second))
            triples.append(np.stack([np.full_like(thirds, first - 1), np.full_like(thirds, second - 1), thirds]))
    return np.concatenate(triples, axis=1)


@dataclass(frozen=True)
class Decoded:
    """The result of decoding.

    Attributes:
        id: Likeliest id of those tried.
        score: Evidence for the id, summed over all positions, in nats.
    """

    id: int
    score: float


class IdCode:
    """Encoder and decoder of ids. Immutable, thread-safe. Share one instance: its tables take a moment to build."""

    def __init__(self) -> None:
        self._powers, self._logarithms = _tables()
        points = [int(self._powers[i]) for i in range(NUM_SYMBOLS)]
        vandermonde = [[1, point, self._times(point, point)] for point in points]
        self._encoder = np.array(vandermonde, np.int32)
        # Lagrange interpolation from any three symbols to all eight, with one matrix per choice of three.
        self._interpolations = [
            (chosen, self._product(self._encoder, self._inverse(self._encoder[list(chosen)])))
            for chosen in itertools.combinations(range(NUM_SYMBOLS), NUM_DATA)
        ]
        self._to_data = self._inverse(self._encoder[:NUM_DATA])
        self._ranks = _rank_triples(_MAX_RANKS)

    def encode(self, message: int) -> Symbols:
        """Returns the codeword of an id (0 to 2^48 - 1): eight symbols."""
        data = np.array([message >> SYMBOL_BITS * i & NUM_VALUES - 1 for i in range(NUM_DATA)], np.int32)
        return self._product(self._encoder, data[:, None])[:, 0]

    def decode(self, scores_PV: Real) -> Decoded:
        """Returns the id whose codeword has the most evidence among all codewords that are tried.

        The values of any three symbols define a codeword. In each position, the value with the most evidence has rank
        1. Three values are tried if the product of their ranks is at most 120, so one value may rank low if the other
        two rank high. A limit of 1,500 would find a few more codewords, but none with enough evidence to be certain.

        Args:
            scores_PV: Evidence for each value in each position, (8, 65536), in nats.
        """
        best_PR = np.argpartition(-scores_PV, _MAX_RANKS, axis=1)[:, :_MAX_RANKS]
        order = np.argsort(-np.take_along_axis(scores_PV, best_PR, axis=1), axis=1)
        best_PR = np.take_along_axis(best_PR, order, axis=1).astype(np.int32)
        candidates = [
            self._product(matrix, np.stack([best_PR[position][self._ranks[i]] for i, position in enumerate(chosen)]))
            for chosen, matrix in self._interpolations
        ]
        words_PC = np.concatenate(candidates, axis=1)
        totals: Real = sum(scores_V.take(words_C) for scores_V, words_C in zip(scores_PV, words_PC, strict=True))
        first = int(totals.argmax())
        data = self._product(self._to_data, words_PC[:NUM_DATA, [first]])[:, 0]
        message = sum(int(symbol) << SYMBOL_BITS * i for i, symbol in enumerate(data))
        return Decoded(message, float(totals[first]))

    def _times(self, a: int, b: int) -> int:
        return int(self._powers[self._logarithms[a] + self._logarithms[b]])

    def _product(self, matrix: Symbols, columns: Symbols) -> Symbols:
        """Returns the product of two matrices over the field."""
        result = np.zeros((matrix.shape[0], columns.shape[1]), np.int32)
        logarithms = self._logarithms[columns]
        for row, factors in enumerate(matrix):
            for factor, column, logarithm in zip(factors, columns, logarithms, strict=True):
                if factor == 1:
                    result[row] ^= column
                elif factor:
                    result[row] ^= self._powers.take(logarithm + self._logarithms[factor])
        return result

    def _inverse(self, matrix: Symbols) -> Symbols:
        """Returns the inverse of a matrix over the field, by Gauss-Jordan elimination."""
        size = len(matrix)
        rows = [[*map(int, row), *(int(i == j) for j in range(size))] for i, row in enumerate(matrix)]
        for i in range(size):
            pivot = next(k for k in range(i, size) if rows[k][i])
            rows[i], rows[pivot] = rows[pivot], rows[i]
            scale = int(self._powers[(-self._logarithms[rows[i][i]]) % (NUM_VALUES - 1)])
            rows[i] = [self._times(scale, value) for value in rows[i]]
            for k in range(size):
                if k != i and (factor := rows[k][i]):
                    rows[k] = [value ^ self._times(factor, own) for value, own in zip(rows[k], rows[i], strict=True)]
        return np.array([row[size:] for row in rows], np.int32)
