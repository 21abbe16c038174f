"""A corpus of documents in memory, cut into windows.

The documents of a split are joined into a ring, each followed by <|endoftext|>. A window starts at a random character
of the ring, moved to the next space so that no word is cut, and runs for as many tokens as it needs, across the ends
of documents. Only the text of the window is tokenized, so a corpus is ready as soon as it is read, whatever its size.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from diffuapriel.data.base import (
    SPLITS,
    VALIDATION_EVERY,
    check_batch,
    check_split,
    describe_left_out,
    digest_of,
    random_stream,
    stream_key,
)
from diffuapriel.tokenizer import Tokenizer

MARGIN = 16  # tokens encoded beyond a window, so that its last token is not a piece of a cut word


class DocumentCorpus:
    """Documents in memory.

    Args:
        train, validation: the documents of each split, none empty; each split needs at least one.
        description: one line about the content, for reports.
    """

    def __init__(
        self,
        name: str,
        tokenizer: Tokenizer,
        *,
        train: Sequence[str],
        validation: Sequence[str],
        description: str = "",
    ) -> None:
        self.name, self.tokenizer, self.description = name, tokenizer, description
        self.splits = {"train": list(train), "validation": list(validation)}
        for split, documents in self.splits.items():
            if not any(documents):
                raise ValueError(f"{name}: too little text, nothing is left for the split {split!r}")
        # The <|endoftext|> after a document counts as a character, so that every start has text after it.
        self._ends = {split: list(accumulate(len(d) + 1 for d in docs)) for split, docs in self.splits.items()}

    def __repr__(self) -> str:
        return f"DocumentCorpus({self.name!r}, {self.description or 'no description'})"

    def fingerprint(self) -> str:
        return digest_of(text for split in SPLITS for text in (split, *self.splits[split]))

    def document(self, index: int, *, split: str, seed: int = 0) -> str:
        """Document number `index` of a split, in the order of the source; the seed plays no role."""
        documents = self.splits[check_split(split)]
        if not 0 <= index < len(documents):
            raise ValueError(f"{self.name} has documents 0 to {len(documents) - 1} in the split {split!r}, not {index}")
        return documents[index]

    def texts(self, split: str) -> Iterator[str]:
        return (document for document in self.splits[check_split(split)] if document)

    def tokens(self, split: str) -> int:
        """Tokens of a split with every <|endoftext|>, estimated from the middles of up to 200 documents."""
        documents = self.splits[check_split(split)]
        middles = [text[len(text) // 2 :][:1000] for text in documents[:: max(1, len(documents) // 200)]]
        per_character = sum(len(self.tokenizer.encode(text)) for text in middles) / max(1, sum(map(len, middles)))
        return round(per_character * sum(map(len, documents))) + len(documents)

    def batch(
        self, step: int, *, split: str, batch_size: int, length: int, seed: int, rows: range | None = None
    ) -> Tensor:
        split, rows = check_batch(step, split, batch_size, length, rows)
        streams = [random_stream(seed, stream_key(split), step, row) for row in rows]
        return torch.tensor([self._window(split, rng, length) for rng in streams])

    def _window(self, split: str, rng: random.Random, length: int) -> list[int]:
        documents, ends = self.splits[split], self._ends[split]
        start = int(rng.random() * ends[-1])
        number = bisect_right(ends, start)
        offset = _next_word(documents[number], start - (ends[number] - len(documents[number]) - 1))
        ids: list[int] = []
        while len(ids) < length:
            ids += self._encode_some(documents[number], offset, length - len(ids))
            ids.append(self.tokenizer.eos_id)
            number, offset = (number + 1) % len(documents), 0
        return ids[:length]

    def _encode_some(self, text: str, offset: int, wanted: int) -> list[int]:
        """The tokens of text[offset:], or at least enough that the first `wanted` are right."""
        characters = 5 * (wanted + MARGIN)
        while True:
            ids = self.tokenizer.encode(text[offset : offset + characters])
            if offset + characters >= len(text) or len(ids) >= wanted + MARGIN:
                return ids
            characters *= 2


def describe(count: int, train: Sequence[str], validation: Sequence[str], left_out: Mapping[str, int]) -> str:
    """One line about documents: how many, how long, the share for validation, and what was left out."""
    held_out = sum(map(len, validation))
    characters = held_out + sum(map(len, train))
    read = f"{count:,} document{'s' * (count != 1)}, {characters:,} characters"
    return f"{read}, {held_out / characters:.1%} of them for validation{describe_left_out(left_out)}"


def _next_word(text: str, offset: int) -> int:
    """The first space at or after `offset`, if one is near; else `offset`. 0 stays 0."""
    if offset == 0:
        return 0
    space = text.find(" ", offset, offset + 200)
    return offset if space < 0 else space


def split_documents(documents: Sequence[str]) -> tuple[list[str], list[str]]:
    """(train, validation): the last tenth of the documents, or of the characters of a single text, is the second."""
    if len(documents) > 1:
        cut = len(documents) - max(1, len(documents) // VALIDATION_EVERY)
        return list(documents[:cut]), list(documents[cut:])
    text = "".join(documents)
    cut = _next_word(text, len(text) - len(text) // VALIDATION_EVERY)
    return [text[:cut]], [text[cut:]]
