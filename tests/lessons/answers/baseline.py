"""Answers to the exercises of lesson 10: right ones, and wrong ones that a reader might well write."""

from __future__ import annotations

import torch


def by_loop(logp, ids):
    return torch.stack([-sum(row[i, token] for i, token in enumerate(own)) for row, own in zip(logp, ids)])


def by_pairs(a, b):
    d = a - b
    half = 1.96 * d.std() / len(d) ** 0.5
    return d.mean().item(), (d.mean() - half).item(), (d.mean() + half).item()


def with_population_deviation(a, b):
    d = a - b
    half = 1.96 * d.std(correction=0) / len(d) ** 0.5
    return [d.mean(), d.mean() - half, d.mean() + half]


def two_groups(a, b):
    half = 1.96 * ((a.var() + b.var()) / len(a)) ** 0.5
    return (a - b).mean(), (a - b).mean() - half, (a - b).mean() + half


def no_root(a, b):
    d = a - b
    return d.mean(), d.mean() - 1.96 * d.std(), d.mean() + 1.96 * d.std()


def the_other_way(a, b):
    return by_pairs(b, a)


RIGHT = {
    "exact_nats": [lambda logp, ids: -logp.gather(2, ids[..., None])[..., 0].sum(1), by_loop],
    "paired_interval": [by_pairs, with_population_deviation],
    "posterior": [
        lambda nats: (-nats).softmax(-1),
        lambda nats: torch.exp(-nats - torch.logsumexp(-nats, 1, keepdim=True)),
    ],
}
WRONG = {
    "exact_nats": [
        lambda logp, ids: logp.gather(2, ids[..., None])[..., 0].sum(1),
        lambda logp, ids: -logp.gather(2, ids[..., None])[..., 0].mean(1),
        lambda logp, ids: -logp.amax(2).sum(1),
        lambda logp, ids: -logp.sum((1, 2)),
    ],
    "paired_interval": [two_groups, no_root, the_other_way, lambda a, b: (a - b).mean()],
    "posterior": [
        lambda nats: nats.softmax(-1),
        lambda nats: (-nats).softmax(0),
        lambda nats: torch.exp(-nats),
        lambda nats: torch.exp(-nats) / torch.exp(-nats).sum(1, keepdim=True),
    ],
}
