"""Lesson 05: how many masks to fill, which ones, and from which distribution."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffuapriel.lessons.check.verdict import checker, close, require, run, tensor

__all__ = ["keep_top_p", "reveal_counts", "threshold_choice"]


@checker
def reveal_counts(answer: Callable[[int, int], Sequence[int]]) -> None:
    """`answer(masked, steps)`: how many masks to fill in each step, as equal as possible, remainder first."""
    for masked, steps in ((12, 4), (13, 5), (20, 8), (31, 9), (3, 5), (1, 1), (0, 3)):
        counts = _whole_numbers(run(answer, masked, steps))
        asked = f"For {masked} masks in {steps} steps you have {counts}."
        require(len(counts) == steps, f"{asked} There must be one number per step.")
        require(min(counts) >= 0, f"{asked} A step cannot fill a negative number of masks.")
        require(
            sum(counts) == masked,
            f"{asked} That is {sum(counts)} in total: every mask must be filled exactly once.",
        )
        require(
            max(counts) - min(counts) <= 1,
            f"{asked} Some steps fill many more than others. Spread the remainder: one more in each of several steps.",
        )
        require(counts == sorted(counts, reverse=True), f"{asked} The larger numbers must come first.")


@checker
def threshold_choice(answer: Callable[[Tensor, float], Tensor]) -> None:
    """`answer(confidence, threshold)`: the masks to fill: all that reach the threshold, and always the best."""
    cases = [  # confidence of each mask, the threshold, the masks to fill, and a hint
        ([0.20, 0.95, 0.60, 0.99], 0.9, {1, 3}, "Two masks are above the threshold."),
        ([0.20, 0.75, 0.60, 0.50], 0.7, {1}, "One mask is above the threshold."),
        ([0.20, 0.50, 0.75], 0.75, {2}, "The last mask is exactly at the threshold: that is enough."),
        ([0.75, 0.50, 0.75], 0.75, {0, 2}, "Two masks are exactly at the threshold: that is enough."),
        (
            [0.30, 0.10, 0.40, 0.20],
            0.9,
            {2},
            "No mask reaches the threshold. What if that happens in every step?",
        ),
        (
            [0.01],
            0.5,
            {0},
            "One mask is left, and it does not reach the threshold. What if that happens in every step?",
        ),
        ([0.90, 0.80, 0.70], 0.0, {0, 1, 2}, "With a threshold of 0 every mask qualifies."),
    ]
    for confidence, threshold, wanted, hint in cases:
        given = torch.tensor(confidence)
        out = run(answer, given, threshold)
        require(
            isinstance(out, Tensor) and out.dtype == torch.bool,
            "Return a tensor of True and False, one per mask.",
        )
        got = set(tensor(out, (len(confidence),)).nonzero().flatten().tolist())
        require(
            got == wanted,
            f"Confidences {confidence}, threshold {threshold}: you fill the masks {sorted(got) or 'none'}. {hint}",
        )


@checker
def keep_top_p(answer: Callable[[Tensor, float], Tensor]) -> None:
    """`answer(p, share)`: keep the fewest best tokens that reach this share; the others get 0; rescale."""
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
        asked = f"Of {values} with share {share} you keep the indices {sorted(kept) or 'none'}."
        total = sum(values[i] for i in kept)
        require(kept, f"{asked} The best token must always stay.")
        require(total >= share, f"{asked} They add up to {total}, which is less than {share}.")
        require(
            len(kept) <= len(wanted),
            f"{asked} Fewer tokens would also reach {share}. Which token crosses the line?",
        )
        require(kept == wanted, f"{asked} The most probable tokens must stay, each at its own index.")
        require(
            close(out.sum().item(), 1.0, rel=1e-4),
            f"{asked} That is right, but they sum to {out.sum().item():.3f}. They must be probabilities again.",
        )
        require(
            close(out, torch.where(out != 0, p / total, 0.0)),
            f"{asked} That is right. But the kept tokens must keep their proportions: scale all by the same number.",
        )


def _whole_numbers(value: object) -> list[int]:
    """A list, a tuple or a tensor of whole numbers. Raises `Wrong` for anything else."""
    listed = value.tolist() if hasattr(value, "tolist") else value  # type: ignore[union-attr]
    require(isinstance(listed, (list, tuple)), "Return a list of numbers, one per step.")
    assert isinstance(listed, (list, tuple))
    require(
        all(isinstance(n, (int, float)) and n == int(n) for n in listed),
        f"You have {list(listed)}: a step cannot fill part of a mask. The numbers must be whole.",
    )
    return [int(n) for n in listed]
