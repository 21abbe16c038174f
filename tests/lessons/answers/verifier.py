"""Answers to the exercises of lesson 12: right ones, and wrong ones that a reader might well write."""

from __future__ import annotations

import math

import torch


def by_hand(rewards):
    d = rewards - rewards.mean()
    return d if not d.any() else d / (d.square().mean() ** 0.5)


def with_tensors(counts):
    p = torch.tensor([float(count) for count in counts if count])
    p = p / p.sum()
    return -(p * p.log()).sum().item()


def with_math(counts):
    return math.log(sum(counts)) - sum(c * math.log(c) for c in counts if c) / sum(counts)


RIGHT = {
    "advantages": [lambda r: (r - r.mean()) / (r.std(correction=0) + 1e-6), by_hand],
    "policy_loss": [
        lambda advantages, nats: (advantages * nats).mean(),
        lambda advantages, nats: advantages @ nats / len(nats),
    ],
    "entropy_of_counts": [with_tensors, with_math],
}
WRONG = {
    "advantages": [
        lambda r: r - r.mean(),
        lambda r: (r - r.mean()) / r.std(correction=0),
        lambda r: r / (r.std() + 1e-6),
        lambda r: (r.mean() - r) / (r.std() + 1e-6),
    ],
    "policy_loss": [
        lambda advantages, nats: -(advantages * nats).mean(),
        lambda advantages, nats: (advantages * nats).sum(),
        lambda advantages, nats: advantages.mean() * nats.mean(),
        lambda advantages, nats: (advantages * nats.detach()).mean(),
    ],
    "entropy_of_counts": [
        lambda counts: -with_tensors(counts),
        lambda counts: with_tensors(counts) / math.log(2),
        lambda counts: math.log(len(counts)),
        lambda counts: -sum(c / sum(counts) * math.log(c / sum(counts)) for c in counts),
    ],
}
