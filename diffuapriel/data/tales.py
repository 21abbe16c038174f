"""Windows of whole tales, with the exact log-probability of what is in them.

A window holds stories in the order they were generated, each followed by <|endoftext|>; the first story
that does not fit ends the window, and <|endoftext|> fills the rest. No story is cut: a cut story has
another entropy. Every row starts its own random stream, keyed by (seed, split, step, row).

The floor that a model can reach on a window is -log P(window), and

    log P(window) = sum over its stories of log p(story)  +  log P(the next story does not fit).

`batch_with_floor` returns the first term, which is exact. The second is at most 0, so the sum of the
stories' -log p is a hair below the true floor (for level 3 in windows of 256 about 0.001 nats/token).
It needs windows in which nearly every story fits: in shorter ones the stories are those that happen to
be short, which have another entropy, and it refuses.
"""

from __future__ import annotations

import random
from functools import cache

import torch
from torch import Tensor

from diffuapriel.data.base import check_rows, check_split, check_window, random_stream
from diffuapriel.tales import language as tales
from diffuapriel.tokenizer import Tokenizer

TRIES = 2000  # to find a first story that fits, before a window is called too short
FITTING = 0.95  # share of the stories that must fit a window for its floor to be exact


class TalesCorpus:
    """Stories of one level. See the top of this file for what a window is."""

    def __init__(self, tokenizer: Tokenizer, level: int = 3) -> None:
        tales.grammar(level)  # refuses an unknown level
        self.name = f"tales:{level}"
        self.tokenizer = tokenizer
        self.level = level

    def __repr__(self) -> str:
        return f"TalesCorpus({self.tokenizer.name!r}, level={self.level})"

    def document(self, index: int, *, split: str, seed: int) -> str:
        """Story number `index` of a part."""
        return tales.generate(self.level, random_stream(seed, check_split(split), "document", index))

    def batch(
        self, step: int, *, split: str, batch_size: int, length: int, seed: int, rows: range | None = None
    ) -> Tensor:
        """Ids (batch_size, length), int64; with `rows` only these rows of them."""
        return torch.tensor([ids for _, ids, _ in self._rows(step, split, batch_size, length, seed, rows)])

    def batch_with_floor(
        self, step: int, *, split: str, batch_size: int, length: int, seed: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The same ids as `batch`, and what they cost at least.

        Returns:
            ids: (batch_size, length), int64.
            log_prob: (batch_size,), float64: summed exact log-probability of the row's stories, nats.
            story_tokens: (batch_size,), int64: tokens of the stories and one <|endoftext|> for each;
                the filling is not counted.

        Raises ValueError for windows that fewer than 95 % of the stories fit.
        """
        least = shortest_window(self.level, self.tokenizer)
        if length < least:
            raise ValueError(
                f"the entropy of level-{self.level} tales is known for windows of {least} tokens or more, "
                f"not {length}: shorter ones hold only the stories that happen to be short"
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
        check_window(step, batch_size, length)
        part = check_split(split)
        wanted = check_rows(rows, batch_size)
        return [self._row(random_stream(seed, part, step, row), length) for row in wanted]

    def _row(self, rng: random.Random, length: int) -> tuple[list[str], list[int], int]:
        """(stories, ids of the whole window, number of ids that belong to the stories)."""
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
                return stories, ids + [eos] * (length - len(ids)), len(ids)
        if stories:  # a window that holds thousands of stories
            return stories, ids + [eos] * (length - len(ids)), len(ids)
        raise ValueError(
            f"no story of level {self.level} fits a window of {length} tokens; "
            f"take {shortest_window(self.level, self.tokenizer)} or more, or a lower level"
        )


@cache
def shortest_window(level: int, tokenizer: Tokenizer) -> int:
    """Window length that 95 % of the stories of a level fit, found from 2,000 of them."""
    rng = random_stream("shortest_window", level)
    lengths = sorted(len(tokenizer.encode(tales.generate(level, rng))) + 1 for _ in range(2000))
    return lengths[int(FITTING * len(lengths))]
