"""Answers to the exercises of lesson 05: right ones, and wrong ones that a reader might well write."""

from __future__ import annotations

import torch

# reveal_counts


def by_remainder(masked, steps):
    each, left = divmod(masked, steps)
    return [each + 1] * left + [each] * (steps - left)


def by_steps_left(masked, steps):
    counts = []
    for steps_left in range(steps, 0, -1):
        counts.append(-(-masked // steps_left))
        masked -= counts[-1]
    return torch.tensor(counts)


def remainder_late(masked, steps):
    return by_remainder(masked, steps)[::-1]


def remainder_in_the_first_step(masked, steps):
    each, left = divmod(masked, steps)
    return [each + left] + [each] * (steps - 1)


def remainder_forgotten(masked, steps):
    return [masked // steps] * steps


def always_rounded_up(masked, steps):
    return [-(-masked // steps)] * steps


def parts_of_tokens(masked, steps):
    return [masked / steps] * steps


# threshold_choice


def with_or(confidence, bar):
    best = torch.arange(len(confidence)) == confidence.argmax()
    return (confidence >= bar) | best


def with_a_lower_bar(confidence, bar):
    return confidence >= min(bar, confidence.max().item())


def none_at_all(confidence, bar):
    return confidence >= bar


def above_only(confidence, bar):
    chosen = confidence > bar
    chosen[confidence.argmax()] = True
    return chosen


def all_if_none(confidence, bar):
    chosen = confidence >= bar
    return chosen if chosen.any() else torch.ones_like(chosen)


def first_if_none(confidence, bar):
    chosen = confidence >= bar
    if not chosen.any():
        chosen[0] = True
    return chosen


def places_instead(confidence, bar):
    return (confidence >= bar).nonzero().flatten()


# keep_top_p


def by_sorting(p, share):
    ordered, places = p.sort(descending=True)
    before = ordered.cumsum(0) - ordered
    ordered = torch.where(before < share, ordered, 0)
    return torch.zeros_like(p).scatter(0, places, ordered / ordered.sum())


def by_a_loop(p, share):
    kept, held = torch.zeros_like(p), 0.0
    for place in p.argsort(descending=True).tolist():
        if held >= share:
            break
        kept[place] = p[place]
        held += p[place].item()
    return kept / held


def without_the_crossing(p, share):
    ordered, places = p.sort(descending=True)
    ordered = torch.where(ordered.cumsum(0) <= share, ordered, 0)
    return torch.zeros_like(p).scatter(0, places, ordered / ordered.sum().clamp_min(1e-9))


def one_too_many(p, share):
    ordered, places = p.sort(descending=True)
    before = ordered.cumsum(0) - ordered
    ordered = torch.where(before <= share, ordered, 0)
    return torch.zeros_like(p).scatter(0, places, ordered / ordered.sum())


def not_scaled(p, share):
    ordered, places = p.sort(descending=True)
    return torch.zeros_like(p).scatter(0, places, torch.where(ordered.cumsum(0) - ordered < share, ordered, 0))


def left_in_order(p, share):
    ordered = p.sort(descending=True).values
    ordered = torch.where(ordered.cumsum(0) - ordered < share, ordered, 0)
    return ordered / ordered.sum()


def not_sorted(p, share):
    kept = torch.where(p.cumsum(0) - p < share, p, 0)
    return kept / kept.sum()


def softmax_again(p, share):
    kept = by_sorting(p, share)
    return kept.masked_fill(kept == 0, -torch.inf).softmax(0)


def min_p_instead(p, share):
    kept = torch.where(p >= share * p.max(), p, 0)
    return kept / kept.sum()


RIGHT = {
    "reveal_counts": [by_remainder, by_steps_left],
    "threshold_choice": [with_or, with_a_lower_bar],
    "keep_top_p": [by_sorting, by_a_loop],
}
WRONG = {
    "reveal_counts": [
        remainder_late,
        remainder_in_the_first_step,
        remainder_forgotten,
        always_rounded_up,
        parts_of_tokens,
        lambda masked, steps: -(-masked // steps),
    ],
    "threshold_choice": [none_at_all, above_only, all_if_none, first_if_none, places_instead],
    "keep_top_p": [
        without_the_crossing,
        one_too_many,
        not_scaled,
        left_in_order,
        not_sorted,
        softmax_again,
        min_p_instead,
    ],
}
