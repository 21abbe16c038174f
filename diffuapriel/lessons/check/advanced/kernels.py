"""Lesson 12: the parts of a kernel (masked loads, a tile of the scan, strides, the gate), and the bytes that it moves.

The reader's functions run in the small interpreter of tiles.py, whatever runs the kernels of the lesson.
"""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor

from diffuapriel.lessons.check.verdict import _short, checker, close, number, require, run, tensor
from diffuapriel.lessons.tiles import OURS, ChipTile, Pointer, pointer, small

__all__ = ["gated", "load_rows", "scan_tile", "traffic", "walk"]

Q, P, N = 8, 4, 3  # tokens of a tile, and the sides of a state


def _tiles(answer: Any, *given: Any) -> Any:
    """What the reader's function makes of tiles and addresses."""
    function = getattr(answer, "fn", answer)
    require(isinstance(function, FunctionType), f"A function is expected here, not {_short(answer)}.")
    return run(small(function), *given)


def _tile(value: Any, shape: tuple[int, ...], what: str = "The answer") -> Tensor:
    require(isinstance(value, ChipTile), f"{what} must be a tile, made by the functions of tl, not {_short(value)}.")
    return tensor(value.value, shape, what)


def _draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@checker
def load_rows(answer: Callable[..., Any]) -> None:
    """`answer(start, rows, columns, row_stride, length)`: rows of a text as a tile, 0 beyond its end."""
    memory, length, stride = _draw(16, 7), 13, 7  # the rows from 13 on belong to somebody else
    for begin in (0, 8):
        rows, columns = ChipTile(torch.arange(begin, begin + Q)), ChipTile(torch.arange(P))
        start = pointer(memory) + 2  # columns 2 to 5 of each row
        result = _tiles(answer, start, rows, columns, stride, length)
        if isinstance(result, ChipTile) and result.value.shape == (P, Q):
            require(False, "Rows go down and columns across: rows[:, None] and columns[None, :].")
        got, unmasked = _tile(result, (Q, P)), memory[begin : begin + Q, 2 : 2 + P]
        wanted = unmasked * (torch.arange(begin, begin + Q) < length)[:, None]
        require(
            begin == 0 or not close(got, unmasked),
            "This reads beyond the text: what stands there belongs to somebody else. Mask the rows from length on.",
        )
        one_more = unmasked * (torch.arange(begin, begin + Q) <= length)[:, None]
        require(begin == 0 or not close(got, one_more), "One row too many: the last row of a text is length - 1.")
        require(
            close(got, wanted), "Row i begins i times row_stride numbers after start; beyond length there are zeros."
        )


@checker
def scan_tile(answer: Callable[..., Any]) -> None:
    """`answer(H, x, dt, B, C, rate, rows)`: outputs (q, P) of one chunk, without D x, and the new state (N, P)."""
    H, x, B, C = _draw(N, P, seed=1), _draw(Q, P, seed=2), _draw(Q, N, seed=3), _draw(Q, N, seed=4)
    dt, rate, rows = torch.rand(Q, generator=torch.Generator().manual_seed(5)) + 0.1, -0.7, torch.arange(Q, 2 * Q)
    dt[-2:] = 0  # beyond the end of the text
    given = [ChipTile(value) for value in (H, x, dt, B, C, torch.tensor(rate), rows)]
    result = _tiles(answer, *given)
    require(isinstance(result, tuple) and len(result) == 2, "Return two things: the outputs, and the state after them.")
    y, after = _tile(result[0], (Q, P), "The outputs"), _tile(result[1], (N, P), "The state")
    outputs, state = [], H
    for t in range(Q):
        state = torch.exp(dt[t] * rate) * state + dt[t] * torch.outer(B[t], x[t])
        outputs.append(C[t] @ state)
    wanted, s = torch.stack(outputs), torch.cumsum(dt * rate, 0)
    before = torch.exp(s)[:, None] * (C @ H)
    matrix = torch.exp(s[:, None] - s[None, :]) * (C @ B.T)
    written = dt[:, None] * x
    for mistake, hint in (
        (wanted - before, "The state H that enters has no effect on the outputs: C reads it, too."),
        (wanted - before + C @ H, "Row t must read a state that has faded by exp(s[t])."),
        (before + matrix @ written, "Your tokens see the future: keep L only where rows[:, None] >= rows[None, :]."),
        (before + matrix.tril(-1) @ written, "A token reads what it has just written, too: the diagonal belongs to L."),
        (before + matrix.tril() @ x, "A write has the size dt: dt[:, None] * x."),
        (before + (C @ B.T).tril() @ written, "Inside the chunk, too, writes fade: by exp(s[t] - s[u])."),
    ):
        require(not close(y, mistake, abs=1e-5), hint)
    require(
        close(y, wanted, abs=1e-5),
        "The outputs are not right: what was written inside, plus the faded state that C reads.",
    )
    unfaded = torch.exp(s[-1]) * H + B.T @ written
    require(not close(after, unfaded, abs=1e-5), "Each token's write fades until the end of the chunk: exp(s_end - s).")
    require(not close(after, state - torch.exp(s[-1]) * H + H, abs=1e-5), "The old state fades by exp(s_end).")
    require(close(after, state, abs=1e-5), "The outputs are right, the new state is not.")


@checker
def walk(answer: Callable[..., Any]) -> None:
    """`answer(start, row_stride, length, reverse)`: the address of the first row in scan order, and the step."""
    for stride, length in ((6, 5), (1, 3)):
        start = pointer(torch.zeros(length * stride + 4)) + 4
        for reverse in (0, 1):
            result = _tiles(answer, start, stride, length, reverse)
            require(isinstance(result, tuple) and len(result) == 2, "Return two things: an address, and a step.")
            first, step = result
            require(
                isinstance(first, Pointer),
                f"The first thing must be an address, start plus a number, not {_short(first)}.",
            )
            at, step = first.at.item() - 4, number(step, "The step")
            wanted = reverse * (length - 1) * stride
            if reverse:
                require(
                    at != length * stride, "This is one row too far: the last of length rows has the number length - 1."
                )
                require(stride == 1 or at != length - 1, "Rows are row_stride numbers apart.")
                require(step != stride, "From the last row on, the walk goes to smaller addresses.")
            else:
                require(
                    (at, step) == (0, stride), "With reverse = 0 the walk begins at start, with the step row_stride."
                )
            require(
                (at, step) == (wanted, -stride if reverse else stride), f"For reverse = {reverse} this is not right."
            )


@checker
def gated(answer: Callable[..., Any]) -> None:
    """`answer(y, z)`: y times SiLU(z)."""
    y, z = _draw(Q, P, seed=6), 3 * _draw(Q, P, seed=7)
    got, wanted = _tile(_tiles(answer, ChipTile(y), ChipTile(z)), (Q, P)), y * torch.nn.functional.silu(z)
    for mistake, hint in (
        (y * torch.sigmoid(z), "This is y times the sigmoid. SiLU(z) is z times the sigmoid of z."),
        (z * torch.nn.functional.silu(y), "The gate is z: the SiLU belongs to it, not to y."),
        (y * z / (1 + torch.exp(z)), "The sign in the exponent: the sigmoid is 1 / (1 + exp(-z))."),
    ):
        require(not close(got, mistake), hint)
    require(close(got, wanted), "y times z times the sigmoid of z, number by number.")


@checker
def traffic(answer: Callable[..., float]) -> None:
    """`answer(length, heads, P, N, bytes_each)`: what the programs of one text and direction load and store."""
    for case in ((10, 3, 4, 5, 4), (7, 2, 8, 3, 2)):
        length, heads, p, n, each = case
        got, wanted = number(run(answer, *case)), OURS["traffic"](*case)
        rows = heads * length * each
        require(got != wanted / each, "These are numbers. How many bytes has each?")
        require(got != wanted - rows * p, "Three tiles have P columns: x and z are loaded, the output is stored.")
        require(got != wanted - rows, "dt is missing: one number per token.")
        once = wanted - (heads - 1) * length * 2 * n * each
        require(got != once, "Every head is a program of its own, and each loads B and C.")
        require(got != wanted + rows * p * n, "The state never leaves the chip: it is neither loaded nor stored.")
        require(got == wanted, "Per program and token: x, z and the output (P), B and C (N), and dt (1).")
