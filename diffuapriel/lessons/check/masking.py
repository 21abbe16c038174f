"""Lesson 01: hiding tokens, and revealing them again."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from diffuapriel.lessons.check.verdict import checker, number, require, run, tensor

__all__ = ["corruption", "mask_exactly", "reveal_chance"]

MASK = 4_097  # [MASK] of gpt2-4k, the tokenizer of the lesson
ROWS, LENGTH = 4_000, 18


def _ids(rows: int = ROWS, length: int = LENGTH) -> Tensor:
    return torch.randint(0, 4_000, (rows, length), generator=torch.Generator().manual_seed(5))


def _generator() -> torch.Generator:
    return torch.Generator().manual_seed(6)


@checker
def corruption(answer: Callable[[Tensor, Tensor, torch.Generator], Tensor]) -> None:
    """`answer(ids, t, generator)` hides each token of row i with probability t[i], independently."""
    ids = _ids()
    for t in (0.0, 0.1, 0.5, 0.9):
        out = tensor(run(answer, ids, torch.full((ROWS,), t), _generator()), (ROWS, LENGTH))
        hidden = out == MASK
        require(torch.equal(out[~hidden], ids[~hidden]), "Tokens that are not hidden must not change.")
        share = hidden.float().mean().item()
        require(
            abs(share - t) < 0.01,
            f"At t = {t} the hidden share should be {t}; it is {share:.3f}. With what probability is one token hidden?",
        )
        counts = hidden.sum(1).float()
        spread, wanted = counts.var().item(), LENGTH * t * (1 - t)
        require(
            abs(spread - wanted) <= 0.15 * wanted + 1e-6,
            "The share is right, but the tokens of a row are not hidden independently. "
            "Does every token have its own random number?",
        )
    times = torch.tensor([0.0, 1.0]).repeat(ROWS // 2)
    hidden = run(answer, ids, times, _generator()) == MASK
    require(
        not hidden[0::2].any() and hidden[1::2].float().mean() > 0.99,
        "Each row has its own time: row i must use t[i].",
    )


@checker
def mask_exactly(answer: Callable[[Tensor, int, torch.Generator], Tensor]) -> None:
    """`answer(ids, count, generator)` hides exactly `count` tokens per row, every choice equally likely."""
    ids = _ids()
    for count in (0, 1, 7, LENGTH):
        out = tensor(run(answer, ids, count, _generator()), (ROWS, LENGTH))
        hidden = out == MASK
        wrong = (hidden.sum(1) != count).nonzero().flatten().tolist()
        require(
            not wrong,
            f"With {count} masks per row requested, row {wrong[0] if wrong else 0} has "
            f"{int(hidden[wrong[0] if wrong else 0].sum())}.",
        )
        require(torch.equal(out[~hidden], ids[~hidden]), "Tokens that are not hidden must not change.")
        share = hidden.float().mean(0)  # at each position
        require(
            (share - count / LENGTH).abs().max() < 0.04,
            "Some positions are hidden more often than others. Every choice of positions must be equally likely.",
        )
        if 0 < count < LENGTH:
            kinds = len(torch.unique(hidden, dim=0))
            require(kinds >= min(LENGTH, 100), "Each row must draw its own positions.")
            pairs = (hidden[:, 0] & hidden[:, 1]).float().mean().item()
            wanted = count * (count - 1) / (LENGTH * (LENGTH - 1))
            require(
                abs(pairs - wanted) < 0.04,
                "Each position is hidden often enough, but neighbors are hidden together. "
                "Draw the positions one by one.",
            )


@checker
def reveal_chance(answer: Callable[[float, float], float]) -> None:
    """`answer(t, s)`: probability that a token hidden at time t is revealed by the earlier time s."""
    asked = [(0.5, 0.0), (0.5, 0.5), (1.0, 0.7), (0.7, 0.2), (0.8, 0.4)]
    got = {(t, s): number(run(answer, t, s)) for t, s in asked}
    require(abs(got[0.5, 0.0] - 1) < 1e-6, "At time 0 no token may be hidden.")
    require(abs(got[0.5, 0.5]) < 1e-6, "If s equals t, nothing is revealed.")
    for t, s in asked[2:]:
        left = t * (1 - got[t, s])  # of all tokens, at time s
        require(
            abs(left - s) < 1e-6,
            f"At t = {t} a share of {t} is hidden. With your probability, a share of {left:.3f} is still hidden at "
            f"s = {s}; it should be {s}.",
        )
