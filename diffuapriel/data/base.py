"""What a corpus is, and the checks that every corpus shares.

Every corpus has two splits that share no document, "train" and "heldout" ("valid" is another name for it).
A batch is a pure function of its arguments, so a run stopped at any step resumes exactly.
"""

from __future__ import annotations

import hashlib
import random
from typing import Protocol

from torch import Tensor

from diffuapriel.tokenizer import Tokenizer

SPLITS = {"train": "train", "heldout": "heldout", "valid": "heldout"}


class Corpus(Protocol):
    """Text as token windows. Every implementation can be pickled, for the workers of a data loader."""

    name: str
    tokenizer: Tokenizer

    def batch(
        self, step: int, *, split: str, batch_size: int, length: int, seed: int, rows: range | None = None
    ) -> Tensor:
        """Ids (batch_size, length), int64: a pure function of the arguments. `rows`: only these rows of them."""
        ...

    def document(self, index: int, *, split: str, seed: int) -> str:
        """One document of a part, as text."""
        ...


def check_split(split: str) -> str:
    """The split's own name, "train" or "heldout"; ValueError for another."""
    if split not in SPLITS:
        raise ValueError(f"no part of the corpus is called {split!r}; choose 'train' or 'heldout'")
    return SPLITS[split]


def check_window(step: int, batch_size: int, length: int) -> None:
    """ValueError for a step, batch size or length that no batch can have."""
    for value, least, what in ((step, 0, "step"), (batch_size, 1, "batch_size"), (length, 2, "length")):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{what} is {value!r}; it must be a whole number, {least} or more")


def check_rows(rows: range | None, batch_size: int) -> range:
    """The rows of a batch to make, all where None is given; ValueError for rows that it does not have."""
    rows = range(batch_size) if rows is None else rows
    if not rows or rows.step != 1 or rows.start < 0 or rows.stop > batch_size:
        raise ValueError(f"rows are {rows}; they must be consecutive ones of range(0, {batch_size})")
    return rows


def random_stream(*key: int | str) -> random.Random:
    """A random stream of its own for every key: the same on every machine and Python version."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return random.Random(int.from_bytes(digest, "big"))
