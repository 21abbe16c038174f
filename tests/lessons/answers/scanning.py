"""Answers to the exercises of lesson 02: right ones, and wrong ones that a reader might well write."""

from __future__ import annotations

import math

import torch

# half_life


def from_the_mean_rate(dt, A):
    return math.log(2) / (dt.mean() * A.abs())


def from_one_half(dt, A):
    return (math.log(0.5) / (dt * A).mean()).item()


def by_trying(dt, A):
    tokens, step = 0.0, 0.001
    while math.exp(tokens * dt.mean().item() * A.item()) > 0.5:
        tokens += step
    return tokens


def to_one_part_in_e(dt, A):
    return -1 / (dt.mean() * A)


def without_the_rate(dt, A):
    return math.log(2) / dt.mean()


def of_the_wrong_sign(dt, A):
    return math.log(2) / (dt * A).mean()


def mean_of_the_half_lives(dt, A):
    return (math.log(2) / (dt * A.abs())).mean()


def median_step(dt, A):
    return math.log(2) / (dt.median() * A.abs())


# one_step


def as_it_is_written(h, x, dt, A, B, C, D):
    h = torch.exp(dt * A) * h + dt * torch.outer(x, B)
    return h, h @ C + D * x


def by_axes(h, x, dt, A, B, C, D):
    new = h * (dt * A).exp() + (dt * x)[:, None] * B[None, :]
    return new, (new * C).sum(-1) + D * x


def by_einsum(h, x, dt, A, B, C, D):
    new = math.exp(float(dt * A)) * h + torch.einsum("p,n->pn", x, B * dt)
    return [new, torch.einsum("pn,n->p", new, C) + x * D]


def reads_the_old_state(h, x, dt, A, B, C, D):
    new = torch.exp(dt * A) * h + dt * torch.outer(x, B)
    return new, h @ C + D * x


def writes_without_dt(h, x, dt, A, B, C, D):
    h = torch.exp(dt * A) * h + torch.outer(x, B)
    return h, h @ C + D * x


def decays_in_a_straight_line(h, x, dt, A, B, C, D):
    h = (1 + dt * A) * h + dt * torch.outer(x, B)
    return h, h @ C + D * x


def forgets_the_skip(h, x, dt, A, B, C, D):
    h = torch.exp(dt * A) * h + dt * torch.outer(x, B)
    return h, h @ C


def fades_what_it_writes(h, x, dt, A, B, C, D):
    h = torch.exp(dt * A) * (h + dt * torch.outer(x, B))
    return h, h @ C + D * x


def state_on_its_side(h, x, dt, A, B, C, D):
    h = torch.exp(dt * A) * h + dt * torch.outer(B, x)
    return h, h @ C + D * x


def output_alone(h, x, dt, A, B, C, D):
    h = torch.exp(dt * A) * h + dt * torch.outer(x, B)
    return h @ C + D * x


def step_in_place(h, x, dt, A, B, C, D):
    h *= torch.exp(dt * A)
    h += dt * torch.outer(x, B)
    return h, h @ C + D * x


# reverse_decay


def forward(dt, A):
    """The lesson's matrix, of a scan from the first token to the last."""
    s = torch.cumsum(dt * A, 0)
    later = torch.ones(len(dt), len(dt), dtype=torch.bool).triu(1)
    return torch.exp((s[:, None] - s[None, :]).masked_fill(later, float("-inf")))


def turned_round_and_back(dt, A):
    return forward(dt.flip(0), A).flip(0, 1)


def by_sums_from_the_end(dt, A):
    s = (dt * A).flip(0).cumsum(0).flip(0)
    earlier = torch.ones(len(dt), len(dt), dtype=torch.bool).tril(-1)
    return torch.exp((s[:, None] - s[None, :]).masked_fill(earlier, float("-inf")))


def row_by_row(dt, A):
    L = torch.eye(len(dt), dtype=dt.dtype)
    for t in reversed(range(len(dt) - 1)):
        L[t, t + 1 :] = torch.exp(dt[t] * A) * L[t + 1, t + 1 :]
    return L


def transposed(dt, A):
    return forward(dt, A).T


def not_reversed(dt, A):
    return forward(dt, A)


def flipped_once(dt, A):
    return forward(dt.flip(0), A).flip(0)


def without_zeros(dt, A):
    s = (dt * A).flip(0).cumsum(0).flip(0)
    return torch.exp(s[:, None] - s[None, :])


def masked_after_the_exponential(dt, A):
    s = (dt * A).flip(0).cumsum(0).flip(0)
    later = torch.ones(len(dt), len(dt), dtype=dt.dtype).triu()
    return torch.exp(s[:, None] - s[None, :]) * later  # inf times 0


def with_its_own_step(dt, A):
    L = turned_round_and_back(dt, A)
    return torch.exp(dt * A)[:, None] * L


def as_a_quotient(dt, A):
    left = torch.exp(dt * A).flip(0).cumprod(0).flip(0)
    return (left[:, None] / left[None, :]).triu()


# carry


def in_a_loop(writes, decays):
    entering, state = [], torch.zeros_like(writes[0])
    for write, decay in zip(writes, decays):
        entering.append(state)
        state = decay * state + write
    return torch.stack(entering)


def into_a_table(writes, decays):
    entering = torch.zeros_like(writes)
    for c in range(1, len(writes)):
        entering[c] = decays[c - 1] * entering[c - 1] + writes[c - 1]
    return entering


def as_a_matrix(writes, decays):
    L = forward(-torch.log(decays), torch.tensor(-1.0, dtype=decays.dtype))
    leaving = torch.einsum("cd,dpn->cpn", L, writes)
    return torch.cat([torch.zeros_like(writes[:1]), leaving[:-1]])


def those_that_leave(writes, decays):
    states, state = [], torch.zeros_like(writes[0])
    for write, decay in zip(writes, decays):
        state = decay * state + write
        states.append(state)
    return torch.stack(states)


def only_the_neighbor(writes, decays):
    return torch.cat([torch.zeros_like(writes[:1]), writes[:-1]])


def nothing_fades(writes, decays):
    return torch.cat([torch.zeros_like(writes[:1]), writes.cumsum(0)[:-1]])


def the_next_chunk_s_decay(writes, decays):
    entering = torch.zeros_like(writes)
    for c in range(1, len(writes)):
        entering[c] = decays[c] * entering[c - 1] + writes[c - 1]
    return entering


def the_write_fades_too(writes, decays):
    entering = torch.zeros_like(writes)
    for c in range(1, len(writes)):
        entering[c] = decays[c - 1] * (entering[c - 1] + writes[c - 1])
    return entering


def begins_with_the_first_write(writes, decays):
    entering = writes.clone()
    for c in range(1, len(writes)):
        entering[c] = decays[c] * entering[c - 1] + writes[c]
    return entering


def last_state_alone(writes, decays):
    return into_a_table(writes, decays)[-1]


# chunk


def chunk_by_steps(H, x, dt, A, B, C, D):
    outputs = []
    for t in range(len(x)):
        H = torch.exp(dt[t] * A) * H + dt[t] * torch.outer(x[t], B[t])
        outputs.append(H @ C[t] + D * x[t])
    return torch.stack(outputs), H


def chunk_of(before=True, fade=True, written_fade=True, old_fade=True, skip=True):
    """The matrix form of a chunk, with one part of it left out."""

    def chunk(H, x, dt, A, B, C, D):
        s = torch.cumsum(dt * A, 0)
        future = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        L = torch.exp((s[:, None] - s[None, :]).masked_fill(future, -math.inf))
        written = dt[:, None] * x
        y = (L * (C @ B.T)) @ written
        y = y + (torch.exp(s)[:, None] if fade else 1) * (C @ H.T) * before
        left = torch.exp(s[-1] - s)[:, None] if written_fade else 1
        state = (torch.exp(s[-1]) if old_fade else 1) * H + (left * written).T @ B
        return y + D * x * skip, state

    return chunk


RIGHT = {
    "chunk": [chunk_of(), chunk_by_steps],
    "half_life": [from_the_mean_rate, from_one_half, by_trying],
    "one_step": [as_it_is_written, by_axes, by_einsum],
    "reverse_decay": [turned_round_and_back, by_sums_from_the_end, row_by_row],
    "carry": [in_a_loop, into_a_table, as_a_matrix],
}
WRONG = {
    "chunk": [
        chunk_of(before=False),
        chunk_of(fade=False),
        chunk_of(written_fade=False),
        chunk_of(old_fade=False),
        chunk_of(skip=False),
        lambda H, x, dt, A, B, C, D: chunk_of()(H, x, dt, A, B, C, D)[0],
        lambda H, x, dt, A, B, C, D: (chunk_of()(H, x, dt, A, B, C, D)[0], H),
    ],
    "half_life": [to_one_part_in_e, without_the_rate, of_the_wrong_sign, mean_of_the_half_lives, median_step],
    "one_step": [
        reads_the_old_state,
        writes_without_dt,
        decays_in_a_straight_line,
        forgets_the_skip,
        fades_what_it_writes,
        state_on_its_side,
        output_alone,
        step_in_place,
    ],
    "reverse_decay": [
        transposed,
        not_reversed,
        flipped_once,
        without_zeros,
        masked_after_the_exponential,
        with_its_own_step,
        as_a_quotient,
    ],
    "carry": [
        those_that_leave,
        only_the_neighbor,
        nothing_fades,
        the_next_chunk_s_decay,
        the_write_fades_too,
        begins_with_the_first_write,
        last_state_alone,
    ],
}
