"""The order in which an epoch visits its rows: a permutation that is computed, not stored."""

from __future__ import annotations

import hashlib

import numpy as np

_ROUNDS = 8


class RowOrder:
    """A permutation of `num_rows` rows, determined by (seed, epoch).

    It takes no memory, and each element is computed independently of the others. A Feistel network
    (Luby and Rackoff, 1988) permutes the smallest range of 4^n numbers that contains the rows; a
    result outside the rows is permuted again until it falls inside ("cycle walking", Black and
    Rogaway, 2002), which takes fewer than four rounds on average. The arithmetic does not depend on
    NumPy's random generators, so a new version of NumPy cannot change the order of a resumed run.
    """

    def __init__(self, num_rows: int, seed: int, epoch: int) -> None:
        """Compute the keys of the permutation.

        Args:
            num_rows: number of rows, at least 1 and at most 2^62.
            seed: any whole number.
            epoch: any whole number.
        """
        assert 1 <= num_rows <= 2**62
        self.num_rows = num_rows
        self._half_bits = max(1, -(-(num_rows - 1).bit_length() // 2))
        key = hashlib.blake2b(f"{seed},{epoch}".encode(), digest_size=8 * _ROUNDS).digest()
        self._keys = np.frombuffer(key, "<u8").astype(np.uint64)

    def __call__(self, places: np.ndarray) -> np.ndarray:
        """The rows at `places` (integers in [0, num_rows)): int64, of the same shape."""
        rows = self._permute(np.asarray(places, np.uint64))
        outside = rows >= self.num_rows
        while outside.any():
            rows[outside] = self._permute(rows[outside])
            outside = rows >= self.num_rows
        return rows.astype(np.int64)

    def _permute(self, numbers: np.ndarray) -> np.ndarray:
        bits = np.uint64(self._half_bits)
        mask = np.uint64((1 << self._half_bits) - 1)
        left, right = numbers >> bits, numbers & mask
        for key in self._keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        return (left << bits) | right


def _mix(numbers: np.ndarray) -> np.ndarray:
    """A 64-bit hash: the finalizer of SplitMix64 (Steele, Lea and Flood, 2014)."""
    numbers = (numbers ^ (numbers >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    numbers = (numbers ^ (numbers >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return numbers ^ (numbers >> np.uint64(31))
