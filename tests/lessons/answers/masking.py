"""Answers to the exercises of lesson 01: right ones, and wrong ones that a reader might well write."""

from __future__ import annotations

import torch

MASK = 4_097


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


RIGHT = {
    "corruption": [by_alpha, by_bernoulli],
    "mask_exactly": [smallest_scores, ranks_below],
    "reveal_chance": [lambda t, s: (t - s) / t, lambda t, s: 1 - s / t],
}
WRONG = {
    "corruption": [
        keeps_instead_of_hides,
        one_draw_for_a_row,
        one_time_for_all,
        exactly_so_many,
        in_place,
        lambda ids, t, generator: ids,
    ],
    "mask_exactly": [about_so_many, the_first_ones, a_run, same_places_everywhere, with_repeats],
    "reveal_chance": [
        lambda t, s: t - s,
        lambda t, s: s / t,
        lambda t, s: 1 - s,
        lambda t, s: (t - s) / (1 - s),
    ],
}
