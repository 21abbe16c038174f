"""Answers to the exercises of lesson 11: right ones, and wrong ones that a reader might well write."""

from __future__ import annotations

import torch


def by_loop(keys, values):
    H = torch.zeros(values.shape[1], keys.shape[1])
    for key, value in zip(keys, values):
        H = H + torch.outer(value, key)
    return H


def with_exponentials(questions, keys, values, beta):
    weights = torch.exp(beta * questions @ keys.T)
    return weights @ values / weights.sum(1, keepdim=True)


RIGHT = {
    "remember": [lambda keys, values: values.T @ keys, by_loop],
    "look_up": [lambda q, keys, values, beta: (beta * q @ keys.T).softmax(-1) @ values, with_exponentials],
    "row_rates": [
        lambda logits, answers: (logits.argmax(-1) == answers).float().mean(1),
        lambda logits, answers: (logits.max(-1).indices == answers).sum(1) / answers.shape[1],
    ],
}
WRONG = {
    "remember": [
        lambda keys, values: keys.T @ values,
        lambda keys, values: values.T @ keys / len(keys),
        lambda keys, values: torch.outer(values[-1], keys[-1]),
        lambda keys, values: torch.outer(values.sum(0), keys.sum(0)),
    ],
    "look_up": [
        lambda q, keys, values, beta: beta * q @ keys.T @ values,
        lambda q, keys, values, beta: (beta * q @ keys.T).softmax(0) @ values,
        lambda q, keys, values, beta: (q @ keys.T).softmax(-1) @ values,
        lambda q, keys, values, beta: values[(q @ keys.T).argmax(1)],
    ],
    "row_rates": [
        lambda logits, answers: (logits.argmax(-1) == answers).float().mean(),
        lambda logits, answers: (logits.argmax(-1) == answers).float().mean(0),
        lambda logits, answers: (logits.argmax(-1) == answers).float().sum(1),
        lambda logits, answers: logits.softmax(-1).gather(2, answers[..., None])[..., 0].mean(1),
    ],
}
