"""Lesson 05: how many masks to fill, which ones, from which distribution, and what a student of few passes learns."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from diffuapriel.lessons.check.verdict import checker, close, number, require, run, tensor
from diffuapriel.tales import language as tales

__all__ = ["certainty", "keep_top_p", "quality", "reveal_counts", "selection", "threshold_choice"]


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
        filled = f"the masks {sorted(got)}" if got else "no mask"
        require(
            got == wanted,
            f"Confidences {confidence}, threshold {threshold}: you fill {filled}. {hint}",
        )


INVENTED = (  # probabilities of five masks; each rule has its own order
    [0.55, 0.45, 0.00, 0.00, 0.00, 0.00],
    [0.50, 0.10, 0.10, 0.10, 0.10, 0.10],
    [0.60, 0.30, 0.04, 0.03, 0.02, 0.01],
    [0.20, 0.20, 0.20, 0.20, 0.10, 0.10],
    [0.40, 0.30, 0.30, 0.00, 0.00, 0.00],
)
ORDERS = {  # the masks, the surest first
    "low_confidence": [2, 0, 1, 4, 3],
    "margin": [1, 2, 0, 4, 3],
    "entropy": [0, 2, 4, 1, 3],
    "random": [3, 0, 4, 2, 1],
}


@checker
def selection(answer: Callable[..., Tensor]) -> None:
    """`answer(rule, p, u, count, steps_left)`: which of the masks of one row are filled now, (masked,) bool."""
    p = torch.tensor(INVENTED, dtype=torch.float64)
    u = torch.tensor([0.60, 0.05, 0.30, 0.90, 0.45], dtype=torch.float64)

    def got(rule: str, count: int, steps_left: int) -> set[int]:
        out = run(answer, rule, p, u, count, steps_left)
        require(
            isinstance(out, Tensor) and out.dtype == torch.bool,
            "Return a tensor of True and False, one per mask.",
        )
        return set(tensor(out, (len(p),)).nonzero().flatten().tolist())

    for rule, order in ORDERS.items():
        for count in (1, 3, 0, 5):
            found = got(rule, count, 4)
            require(
                len(found) == count,
                f"{rule} with count = {count} must fill exactly {count} masks; yours fills {len(found)}.",
            )
            wanted = sorted(order[:count])
            require(
                sorted(found) == wanted,
                f"{rule} with count = {count} should fill the masks {wanted}; yours fills {sorted(found)}. "
                "It takes the largest scores.",
            )
    for steps_left, wanted in ((1, {0, 1, 2, 3, 4}), (2, {1, 2, 4}), (4, {1}), (100, set())):
        found = got("ancestral", 2, steps_left)
        require(
            found == wanted,
            f"ancestral with steps_left = {steps_left} fills each mask whose u is below 1 / steps_left, whatever count "
            f"is: {sorted(wanted) or 'none'} for u = {u.tolist()}. Yours fills {sorted(found) or 'none'}.",
        )


@checker
def quality(answer: Callable[[list[str]], Sequence[float]]) -> None:
    """`answer(texts)`: per cent of tales that are grammatical, that are consistent, and that are different."""
    texts = [tales.generate(1, random.Random(seed)) for seed in (1, 2)]
    cases = [
        (texts, (100, 100, 100), "Two correct stories."),
        ([texts[0]] * 4, (100, 100, 25), "The same correct story four times: one of four is different."),
        (["a b c", texts[0]], (50, 50, 100), "One text that is no story, and one story."),
        ([texts[0], texts[1], texts[1], "no"], (75, 75, 75), "Three stories, two of them equal, and no story."),
    ]
    broken = _inconsistent()
    cases.append(([broken, texts[0]], (100, 50, 100), f"{broken!r} is grammatical, but not consistent."))
    for given, wanted, what in cases:
        value = run(answer, list(given))
        value = value.tolist() if isinstance(value, Tensor) else value
        require(
            isinstance(value, (tuple, list)) and len(value) == 3,
            "Return three numbers: per cent grammatical, consistent, different.",
        )
        for name, one, right in zip(("grammatical", "consistent", "different"), value, wanted):
            found = number(one, f"Per cent {name}")
            require(
                abs(found * 100 - right) > 1e-6 or right == 0,
                f"{what} You have {found:g} {name}: that is a share. Per cent is 100 times as much.",
            )
            require(abs(found - right) < 1e-6, f"{what} {right} % are {name}; yours is {found:g}.")


def _inconsistent() -> str:
    """A text of level 1 that is grammatical but not consistent: somebody's pronoun is exchanged."""
    rng = random.Random(0)
    while True:
        story = tales.generate(1, rng)
        for pronoun, instead in ((" his ", " her "), (" her ", " his ")):
            found = tales.check(changed := story.replace(pronoun, instead), 1)
            if found.grammatical and not found.consistent:
                return changed


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
        asked = f"Of {values} with share {share} you keep {f'the indices {sorted(kept)}' if kept else 'no index'}."
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


@checker
def certainty(answer: Callable[[Tensor, Tensor, float], Tensor]) -> None:
    """`answer(log_p, tokens, weight)`: cross-entropy, plus weight times the entropy where the student is right."""
    p = torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.25, 0.25], [0.1, 0.3, 0.6]], dtype=torch.float64)
    entropies = (-(p * p.log()).sum(1)).tolist()
    cross = {tokens: -sum(p[i, t].log().item() for i, t in enumerate(tokens)) / 3 for tokens in TOKENS}
    for tokens, right in TOKENS.items():
        for weight in (0.0, 1.0, 0.5):
            log_p = p.log().requires_grad_()
            found = tensor(run(answer, log_p, torch.tensor(tokens), weight), ())
            sure = sum(entropies[i] for i in right) / max(1, len(right))
            where = f"the rows {list(right)}" if right else "no row"
            asked = f"tokens {list(tokens)}, weight {weight:g}: the student is right in {where}."
            say = f"{asked} The loss is {cross[tokens] + weight * sure:.4f}; yours is {found.item():.4f}."
            hints = {
                cross[tokens] + weight * sum(entropies) / 3: "Is the entropy counted only where it is right?",
                cross[tokens] + weight * sum(entropies[i] for i in right) / 3: "Divide by the rows where it is right.",
                cross[tokens] - weight * sure: "Entropy is -sum p log p, and it is added: the student is to be sure.",
            }
            hint = next((text for value, text in hints.items() if weight and close(found.item(), value)), "")
            require(close(found.item(), cross[tokens] + weight * sure), f"{say} {hint}".strip())
            require(found.requires_grad, "The loss must have a gradient: compute it from log_p with tensors.")


# Tokens of three rows, and the rows whose best token that is.
TOKENS = {(0, 0, 2): (0, 1, 2), (0, 1, 0): (0,), (1, 1, 1): ()}


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
