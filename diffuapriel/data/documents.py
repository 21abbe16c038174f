"""A corpus of documents in memory, cut into windows.

A part's documents stand one after the other, each followed by <|endoftext|>. A window starts at a random
character of the part, moved to the next space so that no word is cut, and goes on for as many tokens as
it takes, over the ends of documents and from the last document to the first. Only the window's own text
is tokenized: a corpus is ready as soon as it is read, whatever its size, and a window is a pure function
of its random stream.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from diffuapriel.data.base import check_rows, check_split, check_window, random_stream
from diffuapriel.tokenizer import Tokenizer

HELD_OUT = 10  # one document in ten, or one character in ten of a single text
MARGIN = 16  # tokens to spare after a window, so that its last one is not the stump of a word


class DocumentCorpus:
    """Documents in memory.

    Args:
        name: what the corpus is called.
        train, heldout: the documents of each part, none empty; neither part may be without any.
        description: one line that says what it holds, for reports.
    """

    def __init__(
        self,
        name: str,
        tokenizer: Tokenizer,
        *,
        train: Sequence[str],
        heldout: Sequence[str],
        description: str = "",
    ) -> None:
        self.name, self.tokenizer, self.description = name, tokenizer, description
        self.parts = {"train": list(train), "heldout": list(heldout)}
        for part, documents in self.parts.items():
            if not any(documents):
                raise ValueError(f"{name}: too little text, nothing is left for the part {part!r}")
        # The <|endoftext|> after a document counts as a character, so that a start is never out of text.
        self._ends = {part: list(accumulate(len(d) + 1 for d in docs)) for part, docs in self.parts.items()}

    def __repr__(self) -> str:
        return f"DocumentCorpus({self.name!r}, {self.description or 'no description'})"

    def document(self, index: int, *, split: str, seed: int = 0) -> str:
        """Document number `index` of a part, in the order of the source; the seed plays no role."""
        documents = self.parts[check_split(split)]
        if not 0 <= index < len(documents):
            raise ValueError(f"{self.name} has the documents 0 to {len(documents) - 1} there, not {index}")
        return documents[index]

    def batch(
        self, step: int, *, split: str, batch_size: int, length: int, seed: int, rows: range | None = None
    ) -> Tensor:
        """Ids (batch_size, length), int64; with `rows` only these rows of them."""
        check_window(step, batch_size, length)
        part = check_split(split)
        wanted = check_rows(rows, batch_size)
        return torch.tensor(
            [self._window(part, random_stream(seed, part, step, row), length) for row in wanted]
        )

    def _window(self, part: str, rng: random.Random, length: int) -> list[int]:
        documents, ends = self.parts[part], self._ends[part]
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
        """The tokens of text[offset:], or enough of them that the first `wanted` are right."""
        characters = 5 * (wanted + MARGIN)
        while True:
            ids = self.tokenizer.encode(text[offset : offset + characters])
            if offset + characters >= len(text) or len(ids) >= wanted + MARGIN:
                return ids
            characters *= 2


def _next_word(text: str, offset: int) -> int:
    """The first space at or after `offset`, if one is near; `offset` otherwise (and 0 stays 0)."""
    if offset == 0:
        return 0
    space = text.find(" ", offset, offset + 200)
    return offset if space < 0 else space


def split_documents(documents: Sequence[str]) -> tuple[list[str], list[str]]:
    """(train, heldout): the last tenth of the documents is held out; of a single text, of its characters."""
    if len(documents) > 1:
        cut = len(documents) - max(1, len(documents) // HELD_OUT)
        return list(documents[:cut]), list(documents[cut:])
    text = "".join(documents)
    cut = _next_word(text, len(text) - len(text) // HELD_OUT)
    return [text[:cut]], [text[cut:]]
