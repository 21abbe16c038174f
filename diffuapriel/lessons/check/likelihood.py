"""Lesson 07: units, the cost of an ending, and distinct n-grams."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffuapriel.lessons.check.verdict import checker, close, number, require, run

__all__ = ["distinct", "ending_nats", "interval", "units"]


@checker
def interval(answer: Callable[[Tensor], tuple[float, float, float]]) -> None:
    """`answer(values)`: (mean, low, high), the mean and its 95 % interval, mean ± 1.96 s / sqrt(n)."""
    for count, shift in ((400, 3.0), (25, -1.0)):
        values = shift + 2 * torch.randn(count, generator=torch.Generator().manual_seed(count), dtype=torch.float64)
        got = run(answer, values)
        got = got.tolist() if isinstance(got, Tensor) else got
        require(isinstance(got, (tuple, list)) and len(got) == 3, "Return three numbers: mean, low, high.")
        mean, low, high = (number(v, what) for v, what in zip(got, ("The mean", "The lower end", "The upper end")))
        require(close(mean, values.mean()), f"The mean is {values.mean():.3f}; yours is {mean:.3f}.")
        require(low <= mean <= high, "The lower end must be below the mean, and the upper end above it.")
        half, s = (high - low) / 2, values.std().item()
        require(abs((low + high) / 2 - mean) < 1e-3 * s, "The mean must lie in the middle of the interval.")
        require(
            abs(half / (1.96 * s) - 1) > 0.03,
            "That is where single values lie. The mean of n values varies less, by the square root of n.",
        )
        require(
            abs(half * count**0.5 / s - 1) > 0.03,
            "That is one standard error to either side, which covers the truth in 68 of 100 cases. How many for 95?",
        )
        require(
            abs(half * count / (1.96 * s) - 1) > 0.03,
            "You divide by n. The spread of a mean falls with the square root of n.",
        )
        require(
            abs(half * count**0.5 / (1.96 * s) - 1) < 0.03,
            f"For {count} values with s = {s:.3f} the interval should reach {1.96 * s / count**0.5:.3f} to either "
            f"side; yours reaches {half:.3f}.",
        )


@checker
def units(answer: Callable[[float, int, int], tuple[float, float]]) -> None:
    """`answer(nats_per_token, tokens, byte_count)`: (perplexity, bits per byte)."""
    cases = [(0.0, 10, 40), (math.log(2), 100, 100), (math.log(8), 50, 200), (3.2, 700, 2_900), (1.1, 60, 45)]
    for nats, tokens, byte_count in cases:
        pair = run(answer, nats, tokens, byte_count)
        pair = pair.tolist() if isinstance(pair, Tensor) else pair
        require(
            isinstance(pair, (tuple, list)) and len(pair) == 2,
            "Return two numbers: perplexity, bits per byte.",
        )
        perplexity, bits = number(pair[0], "The perplexity"), number(pair[1], "The bits per byte")
        asked = f"For {nats:.3f} nats/token, {tokens} tokens and {byte_count} bytes"
        require(
            close(perplexity, math.exp(nats)),
            f"{asked} your perplexity is {perplexity:.4g}. A model that is as unsure as a choice among V "
            "equally likely tokens has log V nats/token, with the natural logarithm, and the perplexity V.",
        )
        text_nats = nats * tokens
        if text_nats:
            require(
                not close(bits, text_nats / byte_count),
                f"{asked} your bits are still nats. What is one bit in nats?",
            )
            require(
                not close(bits, text_nats * math.log(2) / byte_count),
                f"{asked} you have {bits:.4g} bits per byte. A fair coin costs 0.693 nats or 1 bit. Which is larger?",
            )
        require(
            close(bits, text_nats / math.log(2) / byte_count),
            f"{asked} you have {bits:.4g} bits per byte. How many nats does the whole text cost? "
            "Divide them among all its bytes.",
        )


@checker
def ending_nats(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """`answer(costs, hidden)`: nats of a whole ending: per draw the hidden costs times L/l, then the mean."""
    length = 6
    known = torch.tensor([0.5, 1.0, 0.0, 2.0, 0.25, 1.5])
    draws = [[0], [3, 5], [0, 1, 2, 3, 4, 5], [1, 2, 4]]
    hidden = torch.zeros(len(draws), length, dtype=torch.bool)
    for row, places in enumerate(draws):
        hidden[row, places] = True
    costs = known + torch.rand(len(draws), length, generator=torch.Generator().manual_seed(3))
    one = number(run(answer, torch.full((3, length), 0.7), hidden[:3]), "The estimate")
    require(
        close(one, 0.7 * length),
        f"Each of {length} tokens costs 0.7 nats, whatever is hidden. So the ending costs {0.7 * length:.1f}; "
        f"you have {one:.3f}.",
    )
    garbage = torch.where(hidden, costs, 99.0)
    got = number(run(answer, garbage, hidden), "The estimate")
    require(
        close(got, number(run(answer, torch.where(hidden, costs, 0.0), hidden))),
        "Your answer depends on the costs of visible tokens. Only hidden tokens count.",
    )
    for row in range(len(draws)):
        count = len(draws[row])
        wanted = costs[row][hidden[row]].sum().item() * length / count
        got = number(run(answer, costs[row : row + 1], hidden[row : row + 1]), "The estimate")
        require(
            close(got, wanted),
            f"One draw hides {count} of {length} tokens, and they cost {costs[row][hidden[row]].sum():.3f} together. "
            f"Your estimate is {got:.3f}. If {count} tokens cost that much, what would all {length} cost?",
        )
    wanted = sum(costs[r][hidden[r]].sum().item() * length / len(places) for r, places in enumerate(draws)) / len(draws)
    got = number(run(answer, costs, hidden), "The estimate")
    require(
        close(got, wanted),
        f"Each single draw is right. Together they should give {wanted:.3f}, but you have {got:.3f}. "
        "Every draw is a separate estimate, and all of them have the same weight.",
    )


@checker
def distinct(answer: Callable[[Sequence[Sequence[int]], int], float]) -> None:
    """`answer(rows, n)`: different n-grams / all n-grams of all rows; none crosses the end of a row."""
    cases = [
        ([[1, 2, 3, 4]], 1, 1.0, "All tokens are different."),
        ([[7, 7, 7, 7]], 1, 1 / 4, "It is the same token four times."),
        ([[1, 2, 1, 2, 1]], 2, 2 / 4, "The pairs are 12, 21, 12, 21."),
        ([[1, 2, 3], [1, 2, 3]], 2, 2 / 4, "Two rows are the same: the second adds nothing new."),
        ([[1, 2, 3, 1, 2, 3, 1]], 2, 3 / 6, "The pairs are 12, 23, 31, and the same again."),
        ([[1, 2], [3, 4]], 2, 1.0, "There are two pairs, 12 and 34."),
        ([[1, 2], [1, 2], [2, 1]], 2, 2 / 3, "The pairs are 12, 12, 21."),
        ([[5, 6, 7, 8], [6]], 3, 1.0, "The second row is too short for a triple; the first has two."),
        ([[1, 2, 2], [3, 3, 3, 3, 3]], 1, 3 / 8, "Eight tokens, three different ones."),
    ]
    for rows, n, wanted, seen in cases:
        got = number(run(answer, rows, n), "The share")
        require(
            close(got, wanted),
            f"Rows {rows}, n = {n}: you have {got:.3f}. {seen} Are there as many n-grams as you counted?",
        )
