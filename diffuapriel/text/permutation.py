"""A seeded shuffle of 0 ... n - 1 that is never written down: any element in a moment, whatever n is.

A Feistel network is a permutation of the numbers of 2h bits, whatever its round function f:

    (left, right) -> (right, left xor f(right))         ROUNDS times, each with a key of its own

The least h with 4^h >= n is taken; a number that leaves the range 0 ... n - 1 is sent through again until it is back
(cycle walking), which keeps it a permutation of that range. (Black and Rogaway, "Ciphers with Arbitrary Finite
Domains", 2002; it is used to mix here, not to keep a secret.)
"""

from __future__ import annotations

import numpy as np

from diffuapriel.text.corpus import random_stream

ROUNDS = 4


class Shuffle:
    """The permutation of 0 ... size - 1 that belongs to a key: the same on every machine."""

    def __init__(self, size: int, *key: int | str) -> None:
        if size < 1:
            raise ValueError(f"size is {size}; a shuffle needs 1 element or more")
        self.size = size
        self._half = np.uint64(max(1, -(-(size - 1).bit_length() // 2)))
        stream = random_stream("shuffle", *key)
        self._keys = [np.uint64(stream.getrandbits(64)) for _ in range(ROUNDS)]

    def __call__(self, positions: np.ndarray) -> np.ndarray:
        """The elements at `positions` (any shape, whole numbers in 0 ... size - 1), as int64."""
        numbers = np.asarray(positions).astype(np.uint64)
        if numbers.size and int(numbers.max()) >= self.size:
            raise ValueError(f"position {int(numbers.max())} is outside 0 to {self.size - 1}")
        numbers = self._mix(numbers)
        while (outside := numbers >= self.size).any():
            numbers[outside] = self._mix(numbers[outside])
        return numbers.astype(np.int64)

    def _mix(self, numbers: np.ndarray) -> np.ndarray:
        mask = (np.uint64(1) << self._half) - np.uint64(1)
        left, right = numbers >> self._half, numbers & mask
        for key in self._keys:
            left, right = right, left ^ (_scatter(right + key) & mask)
        return (left << self._half) | right


def _scatter(x: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64: every bit of x moves about half the bits of the result."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
