"""Answers to the exercises of lesson 01: right ones, and wrong ones that a reader might well write."""

from __future__ import annotations

import torch
import torch.nn.functional as F

MASK = 1_017


# corruption


def by_alpha(ids, t, generator):
    hidden = torch.rand(ids.shape, generator=generator) < 1 - (1 - 0.999 * t[:, None])
    return ids.masked_fill(hidden, MASK)


def by_bernoulli(ids, t, generator):
    chance = t[:, None].expand(ids.shape)
    return torch.where(torch.bernoulli(chance, generator=generator).bool(), MASK, ids)


def keeps_instead_of_hides(ids, t, generator):
    return ids.masked_fill(torch.rand(ids.shape, generator=generator) > t[:, None], MASK)


def one_draw_for_a_row(ids, t, generator):
    return ids.masked_fill(torch.rand(len(ids), 1, generator=generator) < t[:, None], MASK)


def one_time_for_all(ids, t, generator):
    return ids.masked_fill(torch.rand(ids.shape, generator=generator) < t[0], MASK)


def exactly_so_many(ids, t, generator):
    count = (t * ids.shape[1]).round().long()[:, None]
    ranks = torch.rand(ids.shape, generator=generator).argsort(1).argsort(1)
    return ids.masked_fill(ranks < count, MASK)


def in_place(ids, t, generator):
    ids[torch.rand(ids.shape, generator=generator) < t[:, None]] = MASK
    return ids


# mask_exactly


def smallest_scores(ids, count, generator):
    places = torch.rand(ids.shape, generator=generator).argsort(1)[:, :count]
    return ids.scatter(1, places, MASK)


def ranks_below(ids, count, generator):
    ranks = torch.rand(ids.shape, generator=generator).argsort(1).argsort(1)
    return torch.where(ranks < count, MASK, ids)


def about_so_many(ids, count, generator):
    return ids.masked_fill(torch.rand(ids.shape, generator=generator) < count / ids.shape[1], MASK)


def the_first_ones(ids, count, generator):
    out = ids.clone()
    out[:, :count] = MASK
    return out


def a_run(ids, count, generator):
    length = ids.shape[1]
    start = torch.randint(0, length, (len(ids), 1), generator=generator)
    return ids.scatter(1, (start + torch.arange(count)) % length, MASK)


def same_places_everywhere(ids, count, generator):
    out = ids.clone()
    out[:, torch.randperm(ids.shape[1], generator=generator)[:count]] = MASK
    return out


def with_repeats(ids, count, generator):
    places = torch.randint(0, ids.shape[1], (len(ids), count), generator=generator)
    return ids.scatter(1, places, MASK)


# loss


def loss_of(weight, count=None, columns=MASK, sigma=None, positions=None):
    """The loss with one part of it replaced."""

    def loss(model, ids, t, generator):
        noisy = by_alpha(ids, t, generator)
        hidden = noisy == MASK
        where = hidden if positions is None else positions(hidden)
        level = -torch.log(1 - 0.999 * t) if sigma is None else sigma(t)
        logits = model(noisy, level, where)[:, :columns]
        cost = F.cross_entropy(logits, ids[where], reduction="none")
        by_row = weight(t)[:, None].expand(ids.shape)[where]
        return (by_row * cost).sum() / (ids.numel() if count is None else count(hidden))

    return loss


def loss_by_rows(model, ids, t, generator):
    noisy = by_bernoulli(ids, t, generator)
    hidden = noisy == MASK
    log_p = model(noisy, -(1 - 0.999 * t).log(), hidden)[:, :MASK].log_softmax(-1)
    cost = torch.zeros(ids.shape)
    cost[hidden] = -log_p.gather(1, ids[hidden][:, None])[:, 0]
    return (cost.sum(1) / t).sum() / (ids.shape[0] * ids.shape[1])


def without_gradient(model, ids, t, generator):
    return loss_by_rows(model, ids, t, generator).item()


def plain_mean(model, ids, t, generator):
    noisy = by_alpha(ids, t, generator)
    hidden = noisy == MASK
    return F.cross_entropy(model(noisy, -torch.log(1 - 0.999 * t), hidden)[:, :MASK], ids[hidden])


def uncorrupted(model, ids, t, generator):
    everywhere = torch.ones(ids.shape, dtype=torch.bool)
    return F.cross_entropy(model(ids, t, everywhere)[:, :MASK], ids.flatten())


# turn


def by_topk(ids, p, count, greedy):
    row = torch.arange(len(ids))[:, None]
    positions = p.amax(-1).topk(count).indices
    chosen = p[row, positions].flatten(0, 1)
    tokens = chosen.argmax(-1) if greedy else torch.multinomial(chosen, 1)
    out = ids.clone()
    out[row, positions] = tokens.view(positions.shape)
    return out


def by_loop(ids, p, count, greedy):
    best, token = p.max(-1)
    if not greedy:
        token = torch.stack([torch.multinomial(row + 1e-12, 1)[:, 0] for row in p])
    surest = best.argsort(1, descending=True)[:, :count]
    return ids.scatter(1, surest, token.gather(1, surest))


def left_to_right(ids, p, count, greedy):
    masked = (ids == MASK).float()
    positions = (masked + 1e-3 * torch.arange(ids.shape[1], 0, -1)).topk(count).indices
    return ids.scatter(1, positions, p.argmax(-1).gather(1, positions))


def always_best(ids, p, count, greedy):
    return by_topk(ids, p, count, True)


def one_too_many(ids, p, count, greedy):
    return by_topk(ids, p, count + 1, greedy)


def same_for_all(ids, p, count, greedy):
    positions = p.amax(-1)[0].topk(count).indices
    out = ids.clone()
    out[:, positions] = p.argmax(-1)[:, positions]
    return out


def any_of_the_kept(ids, p, count, greedy):
    return by_topk(ids, p if greedy else (p > 0).float() * p.amax(-1, keepdim=True), count, greedy)


def fills_in_place(ids, p, count, greedy):
    ids[:] = by_topk(ids, p, count, greedy)
    return ids


RIGHT = {
    "loss": [loss_of(lambda t: 1 / t), loss_by_rows],
    "turn": [by_topk, by_loop],
    "corruption": [by_alpha, by_bernoulli],
    "mask_exactly": [smallest_scores, ranks_below],
    "reveal_chance": [lambda t, s: (t - s) / t, lambda t, s: 1 - s / t],
}
WRONG = {
    "loss": [
        loss_of(lambda t: torch.ones_like(t)),
        loss_of(lambda t: 1 / t, count=lambda hidden: hidden.sum()),
        loss_of(lambda t: 1 / t, columns=MASK + 1),
        loss_of(lambda t: 1 / t, sigma=lambda t: t),
        loss_of(lambda t: 1 / t, positions=lambda hidden: ~hidden),
        loss_of(lambda t: 1 / t, count=lambda hidden: 1),
        loss_of(lambda t: t),
        uncorrupted,
        without_gradient,
        plain_mean,
    ],
    "turn": [left_to_right, always_best, one_too_many, same_for_all, any_of_the_kept, fills_in_place],
    "corruption": [
        keeps_instead_of_hides,
        one_draw_for_a_row,
        one_time_for_all,
        exactly_so_many,
        in_place,
        lambda ids, t, generator: ids,
        lambda ids, t, generator: torch.rand(ids.shape, generator=generator) < t[:, None],
    ],
    "mask_exactly": [about_so_many, the_first_ones, a_run, same_places_everywhere, with_repeats],
    "reveal_chance": [
        lambda t, s: t - s,
        lambda t, s: s / t,
        lambda t, s: 1 - s,
        lambda t, s: (t - s) / (1 - s),
    ],
}
