"""Lesson 02: the recurrence, its matrix and its chunks."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from diffuapriel.lessons.check.verdict import checker, close, number, require, run, tensor

__all__ = ["carry", "chunk", "half_life", "one_step", "reverse_decay"]

P, N = 3, 5  # headdim and d_state of the cases: different, so that swapped axes are noticed


def _random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _number(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


@checker
def half_life(answer: Callable[[Tensor, Tensor], Any]) -> None:
    """`answer(dt, A)`: the number of tokens after which half is left, at the mean step of dt (length,)."""
    cases = [([0.5], -1.0), ([0.1] * 6, -0.2), ([0.25] * 4, -8.0)]
    for steps, rate in cases:
        dt = torch.tensor(steps, dtype=torch.float64)
        tokens = number(run(answer, dt, _number(rate)))
        require(
            tokens > 0,
            f"For dt = {steps[0]} and A = {rate} you say {tokens:.2f} tokens. A count is positive.",
        )
        left = math.exp(tokens * steps[0] * rate)
        require(
            abs(left - 0.5) < 1e-3,
            f"With dt = {steps[0]} at every token and A = {rate}, you say {tokens:.2f} tokens. After these, "
            f"exp(tokens x dt x A) = {left:.3f} is left; it should be 0.5.",
        )
    dt, rate = torch.tensor([0.01, 0.3, 0.02, 1.5, 0.05], dtype=torch.float64), -0.7
    tokens = number(run(answer, dt, _number(rate)))
    left = math.exp(tokens * dt.mean().item() * rate)
    require(
        abs(left - 0.5) < 1e-3,
        "Right if all steps are equal, but not if they differ. The decays multiply, so the steps add up: "
        "which average of dt do you need, and where in the formula?",
    )


@checker
def one_step(answer: Callable[..., tuple[Tensor, Tensor]]) -> None:
    """`answer(h, x, dt, A, B, C, D)`: the new state (P, N) and the output (P,) of one token."""
    h, x, B, C = _random(P, N, seed=1), _random(P, seed=2), _random(N, seed=3), _random(N, seed=4)
    dt, A, D = _number(0.7), _number(-0.9), _number(1.3)
    zero_h, zero_x, zero = torch.zeros_like(h), torch.zeros_like(x), _number(0.0)
    decay = math.exp(-0.63)

    state, _ = _pair(run(answer, h, zero_x, dt, A, B, C, D))
    require(
        close(state, decay * h),
        "With x = 0 nothing is written, and the old state fades by exp(dt A). Your new state differs.",
    )
    state, _ = _pair(run(answer, zero_h, x, dt, A, B, C, D))
    require(
        not close(state, torch.outer(x, B)),
        "With h = 0 the new state is what this token writes. How strongly it writes also depends on its dt.",
    )
    require(
        close(state, 0.7 * torch.outer(x, B)),
        "With h = 0 the new state must be dt x B^T: entry (p, n) is dt times x[p] times B[n].",
    )
    state, y = _pair(run(answer, h, x, dt, A, B, C, zero))
    require(
        close(state, decay * h + 0.7 * torch.outer(x, B)),
        "The faded old state and the write are each right, but their sum is not.",
    )
    require(
        not close(y, h @ C),
        "You read the old state. The output of a token includes what this token has just written.",
    )
    require(close(y, state @ C), "With D = 0 the output must be the new state times C, a sum over the N columns.")
    _, y = _pair(run(answer, h, x, dt, A, B, C, D))
    require(close(y, state @ C + 1.3 * x), "The state is read correctly. What does D do with x?")


def _pair(value: Any) -> tuple[Tensor, Tensor]:
    require(
        isinstance(value, (tuple, list)) and len(value) == 2,
        "Return two things: the new state and the output, as in `return h, y`.",
    )
    return tensor(value[0], (P, N), "The new state"), tensor(value[1], (P,), "The output y")


@checker
def reverse_decay(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """`answer(dt, A)`: the decay matrix (length, length) of a scan from the last token to the first."""
    dt, A = _random(7, seed=5).abs() + 0.1, _number(-0.4)
    L = tensor(run(answer, dt, A), (7, 7), "The matrix")
    above = torch.ones(7, 7, dtype=torch.bool).triu()
    wanted = _wanted_reverse(dt, A)
    forward = _wanted_reverse(dt.flip(0), A).flip(0, 1)
    require(not close(L, forward), "This is the matrix of the scan from the first token to the last.")
    require(not L.all(), "Your matrix has no zeros: every token would know every other one.")
    require(
        not L[~above].any(),
        "In a scan from the last token to the first, output t knows only the tokens u from t on. "
        "Where must the zeros be?",
    )
    require(
        close(L.diagonal(), torch.ones(7)),
        "A token that has just been written has not faded yet: the diagonal must be 1.",
    )
    require(
        not close(L, forward.T),
        "This is the transposed forward matrix. On the way from token u back to token t the state takes other "
        "steps than on the way from t to u: the step of the token where it arrives counts, the step of the "
        "token where it starts does not.",
    )
    require(
        close(L, wanted),
        "The zeros and the diagonal are right. Look at one entry, L[0, 2]: a state written at token 2 fades at "
        "token 1, then at token 0.",
    )
    require(close(tensor(run(answer, dt[:1], A), (1, 1), "The matrix"), 1.0), "A text of one token should give 1.")
    long = torch.full((600,), 5.0, dtype=torch.float64)
    L = tensor(run(answer, long, A), (600, 600), "The matrix of a long text with large steps")
    require(
        close(L, _wanted_reverse(long, A)),
        "Right for a short text, wrong for a long one with large steps: something underflows to 0 or overflows.",
    )


def _wanted_reverse(dt: Tensor, A: Tensor) -> Tensor:
    """Entry (t, u), u >= t: what is left of a state after the steps of tokens u - 1, ..., t."""
    length = len(dt)
    before = torch.cumsum(dt * A, 0) - dt * A  # sum over the tokens before each
    later = torch.ones(length, length, dtype=torch.bool).triu()
    return torch.exp((before[None, :] - before[:, None]).masked_fill(~later, -math.inf))


@checker
def carry(answer: Callable[[Tensor, Tensor], Tensor]) -> None:
    """`answer(writes, decays)`: the state that enters each chunk, (chunks, P, N); zero for the first."""
    chunks = 4
    writes = _random(chunks, P, N, seed=6)
    decays = torch.tensor([0.5, 0.1, 0.8, 0.3], dtype=torch.float64)
    got = tensor(run(answer, writes, decays), (chunks, P, N))
    entering, state = [], torch.zeros_like(writes[0])
    for write, decay in zip(writes, decays):
        entering.append(state)
        state = decay * state + write
    wanted = torch.stack(entering)
    require(
        not close(got, torch.stack([*entering[1:], state])),
        "These are the states that *leave* the chunks. Return those that enter: chunk c needs what all the chunks "
        "before it have left.",
    )
    require(not got[0].any(), "Nothing comes before the first chunk, so the state that enters it is zero.")
    require(
        close(got[1], writes[0]),
        "The second chunk must get exactly what the first chunk wrote.",
    )
    require(not close(got[2], writes[1]), "What the first chunk wrote is still there after the second one: add it.")
    require(not close(got[2], writes[0] + writes[1]), "Nothing fades in yours. Each chunk multiplies by its decay.")
    require(
        close(got[2], decays[1] * writes[0] + writes[1]),
        "Look at the state that enters the third chunk. The first chunk's write has passed through the second chunk "
        "and fades by its decay; the second chunk's write has not faded.",
    )
    require(
        close(got, wanted),
        "The first three states are right, the fourth is not: it needs everything before it.",
    )
    one = tensor(run(answer, writes[:1], decays[:1]), (1, P, N))
    require(not one.any(), "With a single chunk, the entering state must be zero.")


@checker
def chunk(answer: Callable[..., tuple[Tensor, Tensor]]) -> None:
    """`answer(H, x, dt, A, B, C, D)`: the outputs (q, P) of one chunk, and the state (P, N) that leaves it."""
    q = 6
    x, B, C, H = _random(q, P, seed=1), _random(q, N, seed=2), _random(q, N, seed=3), _random(P, N, seed=4)
    dt, A, D = _random(q, seed=5).abs() + 0.1, _number(-0.6), _number(1.3)
    none = torch.zeros_like(H)

    def scanned(H: Tensor, x: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
        outputs = []
        for t in range(len(x)):
            H = torch.exp(dt[t] * A) * H + dt[t] * torch.outer(x[t], B[t])
            outputs.append(H @ C[t] + D * x[t])
        return torch.stack(outputs), H

    def got(H: Tensor, x: Tensor, D: Tensor) -> tuple[Tensor, Tensor]:
        value = run(answer, H, x, dt[: len(x)], A, B[: len(x)], C[: len(x)], D)
        require(
            isinstance(value, (tuple, list)) and len(value) == 2,
            "Return two things: the outputs of the chunk and the state that leaves it.",
        )
        outputs = tensor(value[0], (len(x), P), "The outputs")
        return outputs, tensor(value[1], (P, N), "The state that leaves")

    zero = _number(0.0)
    outputs, _ = got(none, x, zero)
    require(
        close(outputs, scanned(none, x, zero)[0]),
        "With an empty state the outputs are the quadratic form of section 4, within the chunk.",
    )
    outputs, _ = got(H, torch.zeros_like(x), zero)
    require(
        not close(outputs, C @ H.T),
        "What was in the state before the chunk has faded when token t reads it: by exp(s_t).",
    )
    require(
        close(outputs, scanned(H, torch.zeros_like(x), zero)[0]),
        "With x = 0 the output of token t is the state that entered, faded by exp(s_t) and read by C_t.",
    )
    outputs, _ = got(H, x, zero)
    require(close(outputs, scanned(H, x, zero)[0]), "Both parts are right alone. Add them.")
    outputs, left = got(H, x, D)
    require(close(outputs, scanned(H, x, D)[0]), "D is missing: it lets x bypass the memory.")
    wanted = scanned(H, x, D)[1]
    s = torch.cumsum(dt * A, 0)
    require(
        not close(left, torch.exp(s[-1]) * H + (dt[:, None] * x).T @ B),
        "The old state has faded correctly. But what token t writes fades too, from t to the end of the chunk.",
    )
    _, faded = got(H, torch.zeros_like(x), D)
    require(
        close(faded, torch.exp(s[-1]) * H),
        "With x = 0, the state that leaves is the state that entered, faded by all steps of the chunk.",
    )
    require(
        close(left, wanted),
        "The state that leaves is not what the recurrence leaves: the faded old state, plus each write, faded "
        "from its token to the end of the chunk.",
    )
    alone, after = got(H, x[:1], D)
    require(
        close(alone, scanned(H, x[:1], D)[0]) and close(after, scanned(H, x[:1], D)[1]),
        "A chunk of one token must be one step of the recurrence.",
    )
