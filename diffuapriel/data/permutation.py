"""A seeded shuffle of 0 ... n - 1 that is never written down: any element in a moment, whatever n is.

A Feistel network is a permutation of the numbers of 2h bits, whatever its round function f:

    (left, right) -> (right, left xor f(right))         ROUNDS times, each with a key of its own

The least h with 4^h >= n is taken; a number that leaves the range 0 ... n - 1 is sent through again until it is back
(cycle walking), which keeps it a permutation of that range. (Black and Rogaway, "Ciphers with Arbitrary Finite
Domains", 2002; it is used to mix here, not to keep a secret.)
"""

from __future__ import annotations

from diffuapriel.data.base import random_stream

ROUNDS = 4
BITS = 64
ALL_BITS = 2**BITS - 1


class Shuffle:
    """The permutation of 0 ... size - 1 that belongs to a key: the same on every machine."""

    def __init__(self, size: int, *key: int | str) -> None:
        if not 1 <= size <= 2**BITS:
            raise ValueError(f"size is {size}; a shuffle has from 1 to 2^{BITS} elements")
        self.size = size
        self._half = max(1, -(-(size - 1).bit_length() // 2))
        stream = random_stream("shuffle", *key)
        self._keys = [stream.getrandbits(BITS) for _ in range(ROUNDS)]

    def __getitem__(self, place: int) -> int:
        """The element at `place`. Raises IndexError outside 0 ... size - 1."""
        if not 0 <= place < self.size:
            raise IndexError(f"place {place} is outside 0 to {self.size - 1}")
        number = self._mix(place)
        while number >= self.size:
            number = self._mix(number)
        return number

    def _mix(self, number: int) -> int:
        mask = (1 << self._half) - 1
        left, right = number >> self._half, number & mask
        for key in self._keys:
            left, right = right, left ^ (_scatter(right + key) & mask)
        return (left << self._half) | right


def _scatter(x: int) -> int:
    """The finalizer of SplitMix64: every bit of x moves about half the bits of the result."""
    x &= ALL_BITS
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & ALL_BITS
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & ALL_BITS
    return x ^ (x >> 31)
