"""What a corpus is, and the checks and random streams that all corpora share.

A corpus has two splits that share no document, "train" and "validation". A batch is a pure function of (seed, split,
step): row r of step s is drawn from its own random stream, keyed by seed, split, s and r, and nothing is carried
over from the step before. So a run that is stopped at any step resumes exactly, and ranks and data-loader workers can
each make their own rows of a batch.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import Protocol

from torch import Tensor

from diffuapriel.tokenizer import Tokenizer

SPLITS = ("train", "validation")
ALIASES = {"heldout": "validation", "valid": "validation"}
VALIDATION_EVERY = 10  # one document in ten is for validation, or the last tenth of a single text


class Corpus(Protocol):
    """Text as windows of tokens. Every implementation can be pickled, for the workers of a data loader."""

    name: str
    tokenizer: Tokenizer

    @property
    def description(self) -> str:
        """One line: how much text there is, and what was left out of it."""
        ...

    def fingerprint(self) -> str:
        """A digest of the text: where it is equal, so are all batches. It does not depend on where the text is kept."""
        ...

    def batch(
        self, step: int, *, split: str, batch_size: int, length: int, seed: int, rows: range | None = None
    ) -> Tensor:
        """Ids (batch_size, length), int64: a pure function of the arguments. `rows`: only these rows of the batch."""
        ...

    def document(self, index: int, *, split: str, seed: int) -> str:
        """One document of a split, as text."""
        ...

    def texts(self, split: str) -> Iterator[str]:
        """The documents of a split, in the order of the source. Those of tales have no end."""
        ...


def check_split(split: str) -> str:
    """The name of the split, with aliases resolved: "train" or "validation". ValueError for an unknown name."""
    name = ALIASES.get(split, split)
    if name not in SPLITS:
        raise ValueError(f"a corpus has no split {split!r}; choose 'train' or 'validation'")
    return name


def split_of(index: int) -> str:
    """The split of document `index` of a source without a validation split of its own: every tenth is "validation"."""
    return "validation" if index % VALIDATION_EVERY == VALIDATION_EVERY - 1 else "train"


def stream_key(split: str) -> str:
    """The name of a split in the keys of random streams.

    The key of "validation" is "heldout", the name that the split had at first: with any other key the same seed
    would draw other windows, and no recorded figure could be reproduced.
    """
    return "heldout" if split == "validation" else split


def check_batch(step: int, split: str, batch_size: int, length: int, rows: range | None) -> tuple[str, range]:
    """The split's own name and the rows to make, all of the batch where `rows` is None.

    Raises ValueError for a step, split, batch size, length or rows that no batch can have.
    """
    for value, least, what in ((step, 0, "step"), (batch_size, 1, "batch_size"), (length, 2, "length")):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ValueError(f"{what} is {value!r}; it must be a whole number, {least} or more")
    rows = range(batch_size) if rows is None else rows
    if not rows or rows.step != 1 or rows.start < 0 or rows.stop > batch_size:
        raise ValueError(f"rows are {rows}; they must be consecutive ones of range(0, {batch_size})")
    return check_split(split), rows


def digest_of(texts: Iterable[str]) -> str:
    """Hexadecimal SHA-256 of some texts and of their ends."""
    digest = hashlib.sha256()
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()


def describe_left_out(left_out: Mapping[str, int]) -> str:
    """What a corpus was read without, to be added to its description."""
    return "; left out: " * bool(left_out) + ", ".join(f"{what}: {number:,}" for what, number in left_out.items())


def random_stream(*key: int | str) -> random.Random:
    """A random stream for a key: the same on every machine and Python version."""
    digest = hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest()
    return random.Random(int.from_bytes(digest, "big"))
