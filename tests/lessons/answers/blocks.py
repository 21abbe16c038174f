"""Answers to the exercises of lesson 09: right ones, and wrong ones that a reader might well write."""

from __future__ import annotations

import torch

# read_block


def by_loop(H, x, dt, A, B, C):
    outputs = []
    for t in range(len(x)):
        H = torch.exp(dt[t] * A) * H + dt[t] * torch.outer(x[t], B[t])
        outputs.append(H @ C[t])
    return torch.stack(outputs), H


def by_matrix(H, x, dt, A, B, C):
    s = torch.cumsum(dt * A, 0)
    L = torch.exp(s[:, None] - s[None, :]).tril()
    written = dt[:, None] * x
    y = (L * (C @ B.T)) @ written + torch.exp(s)[:, None] * (C @ H.T)
    return y, torch.exp(s[-1]) * H + (torch.exp(s[-1] - s)[:, None] * written).T @ B


def from_zero(H, x, dt, A, B, C):
    return by_loop(torch.zeros_like(H), x, dt, A, B, C)


def changes_the_cache(H, x, dt, A, B, C):
    outputs = []
    for t in range(len(x)):
        H *= torch.exp(dt[t] * A)
        H += dt[t] * torch.outer(x[t], B[t])
        outputs.append(H @ C[t])
    return torch.stack(outputs), H


def reads_before_it_writes(H, x, dt, A, B, C):
    outputs = []
    for t in range(len(x)):
        outputs.append(H @ C[t])
        H = torch.exp(dt[t] * A) * H + dt[t] * torch.outer(x[t], B[t])
    return torch.stack(outputs), H


def forgets_the_step(H, x, dt, A, B, C):
    outputs = []
    for t in range(len(x)):
        H = torch.exp(dt[t] * A) * H + torch.outer(x[t], B[t])
        outputs.append(H @ C[t])
    return torch.stack(outputs), H


# reverse_in_blocks


def reverse(x, dt, A, B, C):
    start = x.new_zeros(x.shape[1], B.shape[1])
    return by_loop(start, x.flip(0), dt.flip(0), A, B.flip(0), C.flip(0))[0].flip(0)


def in_slices(x, dt, A, B, C, S):
    return torch.cat(
        [reverse(*(v[i : i + S] for v in (x, dt)), A, B[i : i + S], C[i : i + S]) for i in range(0, len(x), S)]
    )


def in_splits(x, dt, A, B, C, S):
    parts = zip(*(v.split(S) for v in (x, dt, B, C)))
    return torch.cat([reverse(x, dt, A, B, C) for x, dt, B, C in parts])


def over_everything(x, dt, A, B, C, S):
    return reverse(x, dt, A, B, C)


def forward_in_blocks(x, dt, A, B, C, S):
    zero = x.new_zeros(x.shape[1], B.shape[1])
    parts = zip(*(v.split(S) for v in (x, dt, B, C)))
    return torch.cat([by_loop(zero, x, dt, A, B, C)[0] for x, dt, B, C in parts])


def not_turned_back(x, dt, A, B, C, S):
    return torch.cat([part.flip(0) for part in in_splits(x, dt, A, B, C, S).split(S)])


def last_block_first(x, dt, A, B, C, S):
    return torch.cat(in_splits(x, dt, A, B, C, S).split(S)[::-1])


# block_bound


def one_by_one(nll, masked):
    return torch.stack(
        [sum(nll.shape[2] * n[m].mean() for n, m in zip(row, hidden)) for row, hidden in zip(nll, masked)]
    )


RIGHT = {
    "read_block": [by_loop, by_matrix],
    "reverse_in_blocks": [in_slices, in_splits],
    "block_bound": [lambda nll, masked: (nll.shape[2] / masked.sum(2) * nll.sum(2)).sum(1), one_by_one],
    "kv_bytes": [
        lambda tokens, layers, d_model, bytes_each: 2 * layers * tokens * d_model * bytes_each,
        lambda tokens, layers, d_model, bytes_each: tokens * (layers * (d_model + d_model)) * bytes_each,
    ],
}
WRONG = {
    "read_block": [from_zero, changes_the_cache, reads_before_it_writes, forgets_the_step, lambda H, x, *_: x],
    "reverse_in_blocks": [over_everything, forward_in_blocks, not_turned_back, last_block_first],
    "block_bound": [
        lambda nll, masked: nll.sum((1, 2)),
        lambda nll, masked: nll.sum((1, 2)) * nll[0].numel() / masked.sum((1, 2)),
        lambda nll, masked: (nll.sum(2) / masked.sum(2)).sum(1),
        lambda nll, masked: (nll.shape[2] / masked.sum(2) * nll.sum(2)).mean(1),
    ],
    "kv_bytes": [
        lambda tokens, layers, d_model, bytes_each: layers * tokens * d_model * bytes_each,
        lambda tokens, layers, d_model, bytes_each: 2 * tokens * d_model * bytes_each,
        lambda tokens, layers, d_model, bytes_each: 2 * layers * tokens * d_model,
        lambda tokens, layers, d_model, bytes_each: 2 * layers * tokens**2 * d_model * bytes_each,
    ],
}
