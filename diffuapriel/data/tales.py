"""Windows of whole tales, with the exact log-probability of the stories in them.

A window holds stories in the order in which they were generated, each followed by <|endoftext|>. The first story that
does not fit ends the window, and <|endoftext|> fills the rest. No story is cut, because a cut story has another
entropy.

No model can code a window in fewer nats than -log P(window), where

    log P(window) = sum over its stories of log p(story)  +  log P(the next story does not fit).

`batch_with_entropy` returns the first term, which is exact. The second term is at most 0, so the sum of the stories'
-log p is slightly below the true bound (by about 0.001 nats/token for level 3 in windows of 256). The method requires
windows that nearly every story fits: shorter windows hold only the stories that happen to be short, whose entropy is
different.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from functools import cache

import torch
from torch import Tensor

from diffuapriel.data.base import check_batch, check_split, digest_of, random_stream, stream_key
from diffuapriel.tales import language as tales
from diffuapriel.tokenizer import Tokenizer

TRIES = 2000  # stories drawn to find a first one that fits, before a window is called too short
NUM_FINGERPRINT = 100  # stories that a fingerprint of the grammar is made of
FITTING = 0.95  # share of the stories that must fit a window for its entropy to be known


class TalesCorpus:
    """Stories of one level, in windows of whole stories."""

    def __init__(self, tokenizer: Tokenizer, level: int = 3) -> None:
        tales.grammar(level)  # refuses an unknown level
        self.name = f"tales:{level}"
        self.tokenizer = tokenizer
        self.level = level

    def __repr__(self) -> str:
        return f"TalesCorpus({self.tokenizer.name!r}, level={self.level})"

    @property
    def description(self) -> str:
        return f"stories of level {self.level}, generated without end"

    def fingerprint(self) -> str:
        return digest_of(self.document(index, split="train", seed=0) for index in range(NUM_FINGERPRINT))

    def document(self, index: int, *, split: str, seed: int) -> str:
        """Story number `index` of a split."""
        key = stream_key(check_split(split))
        return tales.generate(self.level, random_stream(seed, key, "document", index))

    def texts(self, split: str) -> Iterator[str]:
        return (self.document(index, split=split, seed=0) for index in itertools.count())

    def batch(
        self, step: int, *, split: str, batch_size: int, length: int, seed: int, rows: range | None = None
    ) -> Tensor:
        return torch.tensor([ids for _, ids, _ in self._rows(step, split, batch_size, length, seed, rows)])

    def batch_with_entropy(
        self, step: int, *, split: str, batch_size: int, length: int, seed: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same ids as `batch`, and the exact log-probability of the stories in them.

        Returns:
            ids: (batch_size, length), int64.
            log_prob: (batch_size,), float64: summed exact log-probability of the stories of each row, in nats.
            story_tokens: (batch_size,), int64: tokens of the stories, with one <|endoftext|> each; padding
                is not counted.

        Raises ValueError if fewer than 95 % of the stories fit the window.
        """
        least = shortest_window(self.level, self.tokenizer)
        if length < least:
            raise ValueError(
                f"the entropy of level-{self.level} tales is known for windows of {least} tokens or more, "
                f"not {length}: shorter windows hold only the stories that happen to be short"
            )
        rows = self._rows(step, split, batch_size, length, seed)
        log_probs = [sum(tales.log_prob(story, self.level) for story in stories) for stories, _, _ in rows]
        return (
            torch.tensor([ids for _, ids, _ in rows]),
            torch.tensor(log_probs, dtype=torch.float64),
            torch.tensor([tokens for _, _, tokens in rows]),
        )

    def _rows(
        self, step: int, split: str, batch_size: int, length: int, seed: int, rows: range | None = None
    ) -> list[tuple[list[str], list[int], int]]:
        split, rows = check_batch(step, split, batch_size, length, rows)
        return [self._row(random_stream(seed, stream_key(split), step, row), length) for row in rows]

    def _row(self, rng: random.Random, length: int) -> tuple[list[str], list[int], int]:
        """(stories, ids of the whole window, number of ids that are not padding)."""
        eos = self.tokenizer.eos_id
        stories: list[str] = []
        ids: list[int] = []
        for _ in range(TRIES):
            story = tales.generate(self.level, rng)
            tokens = self.tokenizer.encode(story)
            if len(ids) + len(tokens) + 1 <= length:
                stories.append(story)
                ids += [*tokens, eos]
            elif stories:
                break
        if not stories:
            raise ValueError(
                f"no story of level {self.level} fits a window of {length} tokens; "
                f"use {shortest_window(self.level, self.tokenizer)} or more, or a lower level"
            )
        return stories, fill_window(ids, length, eos), len(ids)


def fill_window(ids: Sequence[int], length: int, eos_id: int) -> list[int]:
    """The ids of stories as a window holds them: closed by <|endoftext|>, which fills the rest up to `length` tokens.

    Ids that are longer are closed, not cut.
    """
    closed = [*ids] if ids and ids[-1] == eos_id else [*ids, eos_id]
    return closed + [eos_id] * (length - len(closed))


@cache
def shortest_window(level: int, tokenizer: Tokenizer) -> int:
    """Window length in tokens that 95 % of the stories of a level fit, estimated from 2,000 stories."""
    rng = random_stream("shortest_window", level)
    lengths = sorted(len(tokenizer.encode(tales.generate(level, rng))) + 1 for _ in range(2000))
    return lengths[int(FITTING * len(lengths))]
