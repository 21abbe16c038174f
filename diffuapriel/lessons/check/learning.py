"""Lesson 04: comparing backbones fairly."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from diffuapriel.evaluation.interval import Z
from diffuapriel.lessons.check.verdict import checker, number, require, run

__all__ = ["closest_shape", "paired", "warmup_cosine"]


def _count(d_model: int, depth: int) -> int:
    """A model of the lesson's kind: two tables, and blocks."""
    return 2 * 1_000 * d_model + depth * 12 * d_model**2


@checker
def closest_shape(answer: Callable[[Callable[[int, int], int], int, list], tuple[int, int]]) -> None:
    """`answer(count, target, shapes)`: the shape whose count of parameters is closest to the target."""
    by_depth = [(64, depth) for depth in range(1, 9)]
    by_both = [(d_model, depth) for d_model in (32, 48, 64, 80) for depth in range(1, 7)]
    cases = [
        (by_depth, _count(64, 5), (64, 5), "One of the shapes hits the target exactly."),
        (by_depth, _count(64, 4) + 500, (64, 4), "The closest shape may be a little below the target."),
        (by_depth, _count(64, 4) - 500, (64, 4), "The closest shape may be a little above the target."),
        (by_depth, 1, (64, 1), "If the target is below all counts, the smallest shape is the closest."),
        (by_depth, 10**9, (64, 8), "If the target is above all counts, the largest shape is the closest."),
        (
            by_both[::-1],
            _count(48, 6) + 300,
            (48, 6),
            "The list may be in any order, and d_model varies too.",
        ),
    ]
    for shapes, target, wanted, hint in cases:
        got = run(answer, _count, target, list(shapes))
        require(
            isinstance(got, (tuple, list)) and tuple(got) in shapes,
            f"Return one of the given shapes, a pair such as {shapes[0]}, not {got!r}.",
        )
        require(
            tuple(got) == wanted,
            f"{hint} For the target {target:,} you took {tuple(got)} with {_count(*got):,} parameters; "
            f"another shape is closer.",
        )


@checker
def warmup_cosine(answer: Callable[[int, float, int, int], float]) -> None:
    """`answer(step, peak, warmup, total)`: linear to the peak over the warm-up, then a cosine to a tenth of it."""
    for peak, warmup, total in ((3e-3, 10, 110), (0.5, 40, 300), (1.0, 1, 5)):

        def rate(step: int, peak: float = peak, warmup: int = warmup, total: int = total) -> float:
            return number(run(answer, step, peak, warmup, total)) / peak

        def cosine(step: int, warmup: int = warmup, total: int = total) -> float:
            return 0.1 + 0.45 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))

        require(
            abs(rate(0) - 1 / warmup) < 1e-6,
            f"Step 0 of a warm-up of {warmup} should have 1/{warmup} of the peak; yours has {rate(0):.4g} of it. "
            "Steps count from 0.",
        )
        require(abs(rate(warmup - 1) - 1) < 1e-6, "The last step of the warm-up should have the peak rate.")
        require(
            warmup < 3 or abs(rate(warmup // 2 - 1) - (warmup // 2) / warmup) < 1e-6,
            "In the warm-up the rate should rise linearly.",
        )
        require(
            abs(rate(warmup) - 1) < 1e-6,
            f"The cosine should begin at the peak, at step warmup; yours begins with {rate(warmup):.4g} of it.",
        )
        middle = warmup + (total - warmup) // 2
        require(
            abs(rate(middle) - 0.55) < 1e-6 or total < 10,
            f"Halfway down, the rate should be midway between the peak and a tenth of it; yours is "
            f"{rate(middle):.4g} of the peak.",
        )
        wanted = cosine(total - 1)
        require(
            abs(rate(total - 1) - wanted) < 1e-6,
            f"Near the end the rate should come close to a tenth of the peak: {wanted:.4f} of it at the last step; "
            f"yours is {rate(total - 1):.4f}.",
        )
        quarter = warmup + (total - warmup) // 4
        require(
            abs(rate(quarter) - cosine(quarter)) < 1e-6,
            "Both ends are right, but the curve between them is not half a cosine wave.",
        )


@checker
def paired(answer: Callable[[Tensor, Tensor], tuple[float, float, float]]) -> None:
    """`answer(a, b)`: the mean of a - b and its 95 % interval, computed from the differences."""
    generator = torch.Generator().manual_seed(8)
    for count, shift in ((900, 0.3), (400, -2.0)):
        story = 10 + 3 * torch.randn(count, generator=generator, dtype=torch.float64)  # hard or easy for both
        a = story + shift + 0.5 * torch.randn(count, generator=generator, dtype=torch.float64)
        b = story + 0.5 * torch.randn(count, generator=generator, dtype=torch.float64)
        got = run(answer, a, b)
        require(isinstance(got, (tuple, list)) and len(got) == 3, "Return three numbers: mean, low, high.")
        mean, low, high = (
            number(value, what) for value, what in zip(got, ("The mean", "The lower end", "The upper end"))
        )
        difference = a - b
        true = difference.mean().item()
        require(
            abs(mean + true) > 1e-6 or abs(true) < 1e-6,
            "The sign is reversed: compute a - b, which is negative if a is smaller.",
        )
        require(abs(mean - true) < 1e-6, f"The mean of a - b is {true:.3f}; yours is {mean:.3f}.")
        require(
            low <= mean <= high,
            "The interval should go from the lower end to the upper end, with the mean in between.",
        )
        half, wanted = (high - low) / 2, Z * difference.std().item() / count**0.5
        unpaired = Z * ((a.var() + b.var()) / count).sqrt().item()
        require(
            abs(half / unpaired - 1) > 0.02,
            "That is the interval for two separate sets of stories. These are the same stories: first remove what "
            "a and b have in common.",
        )
        require(
            abs(half / wanted * count**-0.5 - 1) > 0.02,
            "That is the spread of single stories. The mean of many stories varies less. By what factor?",
        )
        require(
            abs(half * Z / wanted - 1) > 0.02,
            "That is one standard error to either side, which covers the truth in 68 of 100 cases. How many for 95?",
        )
        require(
            abs(half / wanted - 1) < 0.02,
            f"The mean is right; the interval should reach {wanted:.4f} to either side, yours reaches {half:.4f}.",
        )
        require(abs((low + high) / 2 - mean) < 0.02 * wanted, "The mean should lie in the middle of the interval.")
