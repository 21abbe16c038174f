"""Answers to the exercises of lesson 05: right ones, and wrong ones that a reader might well write."""

from __future__ import annotations

import torch

from diffuapriel.tales import language as tales

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


# selection


def by_rules(rule, p, u, count, steps_left):
    if rule == "ancestral":
        return u < 1 / steps_left
    best, second = p.topk(2).values.unbind(-1)
    spread = torch.special.entr(p).sum(-1)
    scores = {"low_confidence": best, "margin": best - second, "entropy": -spread, "random": u}[rule]
    return torch.isin(torch.arange(len(p)), scores.topk(count).indices)


def by_ranks(rule, p, u, count, steps_left):
    ordered = p.sort(descending=True).values
    scores = {
        "low_confidence": ordered[:, 0],
        "margin": ordered[:, 0] - ordered[:, 1],
        "entropy": (p * (p + 1e-12).log()).sum(1),
        "random": u,
        "ancestral": -u,
    }[rule]
    if rule == "ancestral":
        return scores > -1 / steps_left
    return scores.argsort(descending=True).argsort() < count


def selection_with(**scores):
    """The right rules, but for those given."""

    def choose(rule, p, u, count, steps_left):
        if rule not in scores:
            return by_rules(rule, p, u, count, steps_left)
        order = scores[rule](p, u).argsort(descending=True)
        return torch.isin(torch.arange(len(p)), order[:count])

    return choose


def ancestral_upside_down(rule, p, u, count, steps_left):
    return u > 1 / steps_left if rule == "ancestral" else by_rules(rule, p, u, count, steps_left)


# quality


def by_lists(texts):
    found = [tales.check(text, 1) for text in texts]
    share = 100 / len(texts)
    return (
        share * sum(c.grammatical for c in found),
        share * sum(c.consistent for c in found),
        share * len(set(texts)),
    )


def by_tensors(texts):
    found = [tales.check(text, 1) for text in texts]
    rates = [[c.grammatical, c.consistent, text not in texts[:i]] for i, (c, text) in enumerate(zip(found, texts))]
    return 100 * torch.tensor(rates, dtype=torch.float64).mean(0)


def shares(texts):
    return tuple(value / 100 for value in by_lists(texts))


def counts(texts):
    return tuple(value * len(texts) / 100 for value in by_lists(texts))


def of_the_different(texts):
    grammatical, consistent, _ = by_lists(list(set(texts)))
    return grammatical, consistent, 100.0


def swapped(texts):
    grammatical, consistent, different = by_lists(texts)
    return consistent, grammatical, different


# certainty


def in_parts(log_p, tokens, weight):
    rows = torch.arange(len(tokens))
    loss = -log_p[rows, tokens].mean()
    right = log_p.argmax(1) == tokens
    if right.any():
        loss = loss + weight * torch.special.entr(log_p.exp()).sum(1)[right].mean()
    return loss


def with_categorical(log_p, tokens, weight):
    right = (log_p.argmax(1) == tokens).double()
    entropy = torch.distributions.Categorical(logits=log_p).entropy()
    cross = torch.nn.functional.cross_entropy(log_p, tokens)
    return cross + weight * (right * entropy).sum() / max(1, int(right.sum()))


def sure_everywhere(log_p, tokens, weight):
    return in_parts(log_p, tokens, 0) + weight * torch.special.entr(log_p.exp()).sum(1).mean()


def over_all_rows(log_p, tokens, weight):
    right = log_p.argmax(1) == tokens
    return in_parts(log_p, tokens, 0) + weight * (right * torch.special.entr(log_p.exp()).sum(1)).mean()


def less_sure(log_p, tokens, weight):
    return in_parts(log_p, tokens, -weight)


def where_it_is_wrong(log_p, tokens, weight):
    wrong = log_p.argmax(1) != tokens
    entropy = torch.special.entr(log_p.exp()).sum(1)
    return in_parts(log_p, tokens, 0) + weight * (wrong * entropy).sum() / wrong.sum().clamp_min(1)


def nothing_over_nothing(log_p, tokens, weight):
    right = log_p.argmax(1) == tokens
    return in_parts(log_p, tokens, 0) + weight * torch.special.entr(log_p.exp()).sum(1)[right].mean()


RIGHT = {
    "certainty": [in_parts, with_categorical],
    "selection": [by_rules, by_ranks],
    "quality": [by_lists, by_tensors],
    "reveal_counts": [by_remainder, by_steps_left],
    "threshold_choice": [with_or, with_a_lower_bar],
    "keep_top_p": [by_sorting, by_a_loop],
}
WRONG = {
    "certainty": [
        sure_everywhere,
        over_all_rows,
        less_sure,
        where_it_is_wrong,
        nothing_over_nothing,
        lambda log_p, tokens, weight: in_parts(log_p, tokens, 0),
        lambda log_p, tokens, weight: in_parts(log_p.detach(), tokens, weight),
    ],
    "selection": [
        selection_with(margin=lambda p, u: p.amax(-1)),
        selection_with(entropy=lambda p, u: torch.special.entr(p).sum(-1)),
        selection_with(random=lambda p, u: -u),
        selection_with(low_confidence=lambda p, u: -p.amax(-1)),
        ancestral_upside_down,
        lambda rule, p, u, count, steps_left: p.amax(-1).topk(count).indices,
    ],
    "quality": [shares, counts, of_the_different, swapped, lambda texts: by_lists(texts)[:2]],
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
