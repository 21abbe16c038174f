"""The residual stream between two products, in one launch: what a mixer or an MLP adds, and the next modulated norm.

    x' = x + gate sum_p r_p y_p                    y_p  the parts of a product, cut along its inner dimension
    u  = norm(x') weight (1 + scale) + shift       r_p  1, or of a mixer's gated norm, 1 / sqrt(squares / d_inner + eps)

Forward only.

    x, u     (b, l, d)               parts      (p, b, l, d), as many of each direction
    squares  (k, b, l, h) float32    gate, shift, scale  (b, 1, d), slices of one tensor    weight  (d,) float32

Plain twin: `Block.forward_blocks` in model/denoiser.py.
"""

# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def add_norm_kernel(
    x,
    parts,  # or None: nothing is added
    squares,  # or None
    gate, weight, shift, scale,
    after,
    u,
    rows, length, d_model: tl.constexpr, step, inner, eps,
    PARTS: tl.constexpr,
    SHARED: tl.constexpr,  # parts of a direction
    HEADS: tl.constexpr,
    SIZE: tl.constexpr, HEAD_SIZE: tl.constexpr,  # of d_model and HEADS, as powers of two
):  # fmt: skip
    """Program (token)."""
    row, column = tl.program_id(0).to(tl.int64), tl.arange(0, SIZE)
    real = column < d_model
    at, level = row * d_model + column, row // length * step + column
    total = tl.load(x + at, mask=real, other=0.0).to(tl.float32)
    if parts is not None:
        added, head = tl.zeros((SIZE,), tl.float32), tl.arange(0, HEAD_SIZE)
        for p in tl.static_range(PARTS):
            y = tl.load(parts + p * rows * d_model + at, mask=real, other=0.0).to(tl.float32)
            if squares is not None:
                found = tl.load(squares + (p // SHARED * rows + row) * HEADS + head, mask=head < HEADS, other=0.0)
                y *= tl.rsqrt(tl.sum(found) / inner + eps)
            added += y
        total += added * tl.load(gate + level, mask=real, other=0.0).to(tl.float32)
        rounded = total.to(x.dtype.element_ty)
        tl.store(after + at, rounded, mask=real)
        total = rounded.to(tl.float32)
    normed = total * tl.rsqrt(tl.sum(total * total) / d_model + eps)
    normed *= tl.load(weight + column, mask=real, other=0.0).to(tl.float32)
    factor = 1 + tl.load(scale + level, mask=real, other=0.0).to(tl.float32)
    found = normed * factor + tl.load(shift + level, mask=real, other=0.0).to(tl.float32)
    tl.store(u + at, found.to(u.dtype.element_ty), mask=real)


def add_norm(
    x: Tensor,
    weight: Tensor,
    shift: Tensor,
    scale: Tensor,
    parts: Tensor | None,
    squares: Tensor | None,
    gate: Tensor | None,
    inner: int,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """x' and u, in x's dtype; x' is x itself where nothing is added. x, parts and squares contiguous."""
    (batch, length, d_model), u = x.shape, torch.empty_like(x)
    after = x if parts is None else torch.empty_like(x)
    count, heads = 1 if parts is None else len(parts), 1 if squares is None else squares.shape[-1]
    shared = 1 if squares is None else count // len(squares)
    sizes = batch * length, length, d_model, shift.stride(0), inner, eps
    powers = {"SIZE": triton.next_power_of_2(d_model), "HEAD_SIZE": triton.next_power_of_2(heads)}
    add_norm_kernel[(batch * length,)](
        x,
        parts,
        squares,
        gate,
        weight,
        shift,
        scale,
        after,
        u,
        *sizes,
        PARTS=count,
        SHARED=shared,
        HEADS=heads,
        **powers,
    )
    return after, u
