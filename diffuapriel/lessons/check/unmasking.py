"""Lesson 05: how many to reveal, which, and from what they are drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffuapriel.lessons.check.verdict import checker, close, require, run, tensor

__all__ = ["keep_top_p", "reveal_counts", "threshold_choice"]


@checker
def reveal_counts(answer: Callable[[int, int], Sequence[int]]) -> None:
    """`answer(masked, steps)`: how many tokens to reveal in each step, equally many, the remainder early."""
    for masked, steps in ((12, 4), (13, 5), (20, 8), (31, 9), (3, 5), (1, 1), (0, 3)):
        counts = _whole_numbers(run(answer, masked, steps))
        asked = f"For {masked} masks in {steps} steps you have {counts}."
        require(len(counts) == steps, f"{asked} There must be one number for each step.")
        require(min(counts) >= 0, f"{asked} A step cannot reveal fewer than none.")
        require(
            sum(counts) == masked,
            f"{asked} That is {sum(counts)} in all: every mask must be revealed, and none twice.",
        )
        require(
            max(counts) - min(counts) <= 1,
            f"{asked} Some steps have much more to do than others. The remainder goes to several steps, one each.",
        )
        require(
            counts == sorted(counts, reverse=True), f"{asked} The larger numbers belong to the early steps."
        )


@checker
def threshold_choice(answer: Callable[[Tensor, float], Tensor]) -> None:
    """`answer(confidence, bar)`: which holes to reveal, all that reach the bar, and always the best one."""
    cases = [  # confidences in the order of the holes, the bar, the holes to reveal, and what is to be seen there
        ([0.20, 0.95, 0.60, 0.99], 0.9, {1, 3}, "Two holes are above the bar."),
        ([0.20, 0.75, 0.60, 0.50], 0.7, {1}, "One hole is above the bar."),
        ([0.20, 0.50, 0.75], 0.75, {2}, "The last hole is exactly as sure as the bar asks: that is enough."),
        ([0.75, 0.50, 0.75], 0.75, {0, 2}, "Two holes are exactly as sure as the bar asks: that is enough."),
        ([0.30, 0.10, 0.40, 0.20], 0.9, {2}, "No hole reaches the bar. What if that happens in every step?"),
        (
            [0.01],
            0.5,
            {0},
            "One hole is left, and it does not reach the bar. What if that happens in every step?",
        ),
        ([0.90, 0.80, 0.70], 0.0, {0, 1, 2}, "With a bar of 0 every hole is sure enough."),
    ]
    for confidence, bar, wanted, seen in cases:
        given = torch.tensor(confidence)
        out = run(answer, given, bar)
        require(
            isinstance(out, Tensor) and out.dtype == torch.bool,
            "Answer with a tensor of True and False, one for each hole.",
        )
        got = set(tensor(out, (len(confidence),)).nonzero().flatten().tolist())
        require(
            got == wanted,
            f"Confidences {confidence}, bar {bar}: you reveal the holes {sorted(got) or 'none'}. {seen}",
        )


@checker
def keep_top_p(answer: Callable[[Tensor, float], Tensor]) -> None:
    """`answer(p, share)`: the fewest best tokens that hold this share; the others get 0, and the rest is scaled up."""
    cases = [
        ([0.500, 0.250, 0.125, 0.125], 0.60, {0, 1}),
        ([0.125, 0.500, 0.125, 0.250], 0.60, {1, 3}),
        ([0.125, 0.250, 0.500, 0.125], 0.75, {1, 2}),
        ([0.0625, 0.9375], 0.50, {1}),
        ([0.125, 0.0625, 0.3125, 0.250, 0.250], 0.90, {0, 2, 3, 4}),
        ([0.125, 0.250, 0.500, 0.125], 1.00, {0, 1, 2, 3}),
    ]
    for values, share, wanted in cases:
        p = torch.tensor(values)
        out = tensor(run(answer, p, share), (len(values),))
        kept = set((out != 0).nonzero().flatten().tolist())
        asked = f"Of {values} with share {share} you keep the places {sorted(kept) or 'none'}."
        held = sum(values[i] for i in kept)
        require(kept, f"{asked} The best token must always stay.")
        require(held >= share, f"{asked} They hold {held}, which is less than {share}.")
        require(
            len(kept) <= len(wanted), f"{asked} Fewer would hold {share} too. Which token crosses the line?"
        )
        require(
            kept == wanted, f"{asked} The most probable tokens must stay, each at the place where it was."
        )
        require(
            close(out.sum().item(), 1.0, rel=1e-4),
            f"{asked} That is right, but they sum to {out.sum().item():.3f}. They must be probabilities again.",
        )
        require(
            close(out, torch.where(out != 0, p / held, 0.0)),
            f"{asked} That is right. But what stays must keep its proportions: all are scaled by the same number.",
        )


def _whole_numbers(value: object) -> list[int]:
    """A list, a tuple or a tensor of whole numbers. Raises `Wrong` for anything else."""
    listed = value.tolist() if hasattr(value, "tolist") else value  # type: ignore[union-attr]
    require(isinstance(listed, (list, tuple)), "Answer with a list of numbers, one for each step.")
    assert isinstance(listed, (list, tuple))
    require(
        all(isinstance(n, (int, float)) and n == int(n) for n in listed),
        f"You have {list(listed)}: one cannot reveal part of a token. The numbers must be whole.",
    )
    return [int(n) for n in listed]
