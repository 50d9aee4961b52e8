"""The error-correcting code for the payload of an image: BCH(127, 64), with soft-decision decoding.

Codewords are the multiples of a generator polynomial over GF(2). The generator's roots include the first 20 powers of a
primitive element of GF(2^7) (Bose and Ray-Chaudhuri 1960, Hocquenghem 1959), so two codewords differ in at least 21
bits. The decoder uses ordered statistics (Fossorier and Lin 1995, order 3): it takes the 64 most reliable independent
bits, and tries all codewords that result from flipping up to three of them. This is close to
maximum-likelihood decoding.
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
    """A codeword found by decoding.

    Attributes:
        data: The 64 data bits as an integer, most significant bit first.
        agreement: Sum of the soft bits, each multiplied by 1 if the codeword's bit is 1, and by -1 if it is 0.
    """

    data: int
    agreement: float


class BchCode:
    """Encoder and decoder of BCH(127, 64). Immutable, thread-safe."""

    def __init__(self) -> None:
        generator = _generator()
        rows = np.zeros((NUM_DATA, NUM_BITS), np.uint8)
        for row in range(NUM_DATA):
            for degree in range(NUM_BITS - NUM_DATA + 1):
                rows[row, row + degree] = generator >> degree & 1
        self._matrix = _reduced(rows, np.arange(NUM_BITS))[0]  # systematic: the data bits come first
        # All pairs of rows that may be added (row 0 is all zeros), and for each pair, the rows that may be added to it.
        self._pairs = np.array([(0, 0), *((i, j) for j in range(1, NUM_DATA + 1) for i in range(j))]).T
        self._is_third = (np.arange(NUM_DATA + 1) == 0) | (np.arange(NUM_DATA + 1) > self._pairs[1][:, None])
        self._is_third &= (self._pairs[0] > 0)[:, None] | (np.arange(NUM_DATA + 1) == 0)

    def encode(self, data: int) -> Bits:
        """Returns the codeword of 64 data bits, as an array of 127 zeros and ones."""
        bits = np.array([data >> NUM_DATA - 1 - i & 1 for i in range(NUM_DATA)], np.uint8)
        return bits @ self._matrix % 2

    def decode(self, soft: Real, num_words: int = 1) -> list[Word]:
        """Returns the codewords that agree best with the soft bits, best first.

        Args:
            soft: Soft bits, (127,): positive where a bit is probably 1, negative where it is probably 0. The
                magnitude is the confidence.
            num_words: Number of codewords to return.
        """
        matrix, basis = _reduced(self._matrix, np.argsort(-np.abs(soft), kind="stable"))
        believed = (soft[basis] > 0).astype(np.uint8) @ matrix % 2
        rows = np.concatenate([np.zeros_like(matrix[:1]), matrix])
        # With bits written as signs, adding rows multiplies their signs, so one matrix product gives all agreements.
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
    """Returns the generator polynomial, the product of its roots' minimal polynomials.

    Bit i of the result is the coefficient of x^i.
    """
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
    """Returns a matrix reduced to the identity in its pivot columns, and these columns.

    The pivots are the first linearly independent columns in the given order.
    """
    # Each row becomes an integer whose highest bit is the first column, so two rows are added by one XOR.
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
