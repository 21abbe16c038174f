"""Answers to the exercises of lesson 13: right ones, and wrong ones that a reader might well write."""

from __future__ import annotations

import math
from collections import Counter

import torch
import torch.nn.functional as F


def by_hand(rewards):
    d = rewards - rewards.mean()
    return d if not d.any() else d / (d.square().mean() ** 0.5)


def smaller(new, old, advantages):
    ratio, A = (new - old).exp(), advantages[:, None]
    return torch.minimum(ratio * A, ratio.clamp(0.8, 1.2) * A)


def by_sign(new, old, advantages):
    ratio, A = new.exp() / old.exp(), advantages.unsqueeze(1)
    return torch.where(A > 0, ratio.clamp(max=1.2), ratio.clamp(min=0.8)) * A


def with_math(words):
    return torch.tensor([math.log(len(words)) - math.log(words.count(word)) for word in words])


def shares(words):
    counts = Counter(words)
    return torch.tensor([counts[word] / len(words) for word in words])


RIGHT = {
    "advantages": [lambda r: (r - r.mean()) / (r.std(correction=0) + 1e-6), by_hand],
    "clipped_gain": [smaller, by_sign],
    "surprisals": [lambda words: -shares(words).log(), with_math],
    "divergence": [
        lambda new, reference: (reference.exp() * (reference - new)).sum(-1),
        lambda new, reference: F.kl_div(new, reference, log_target=True, reduction="none").sum(1),
    ],
}
WRONG = {
    "advantages": [
        lambda r: r - r.mean(),
        lambda r: (r - r.mean()) / r.std(correction=0),
        lambda r: r / (r.std() + 1e-6),
        lambda r: (r.mean() - r) / (r.std() + 1e-6),
    ],
    "clipped_gain": [
        lambda new, old, A: (new - old).exp() * A[:, None],
        lambda new, old, A: (new - old).exp().clamp(0.8, 1.2) * A[:, None],
        lambda new, old, A: (new - old) * A[:, None],
        lambda new, old, A: smaller(old, new, A),
        lambda new, old, A: -smaller(new, old, A),
        lambda new, old, A: smaller(new.detach(), old, A),
        lambda new, old, A: smaller(new, old, A).sum(1),
    ],
    "surprisals": [
        lambda words: shares(words),
        lambda words: shares(words).log(),
        lambda words: -shares(words).log2(),
        lambda words: -shares(words) * shares(words).log(),
        lambda words: -shares(words).log().mean(),
        lambda words: torch.tensor([-math.log(n / len(words)) for n in Counter(words).values()]),
    ],
    "divergence": [
        lambda new, reference: (new.exp() * (new - reference)).sum(-1),
        lambda new, reference: (reference.exp() * (new - reference)).sum(-1),
        lambda new, reference: (reference.exp() * (reference - new)).sum(),
        lambda new, reference: (reference.exp() * (reference - new)).mean(-1),
        lambda new, reference: -(reference.exp() * new).sum(-1),
        lambda new, reference: (reference - new).sum(-1),
    ],
}
