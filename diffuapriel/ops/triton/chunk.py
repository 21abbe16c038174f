"""The kernels of the masked product of a chunk (masked_product.py, which has the equations and shapes).

Axes of a stride: b batch, c chunk, g group, h head, q token; those of p and n are contiguous.
"""

# pyright: reportCallIssue=false, reportGeneralTypeIssues=false, reportOperatorIssue=false, reportArgumentType=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from diffuapriel.ops.triton.launch import MIN_TILE, precision


@triton.jit
def allowed(MASK: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr):
    """(t, u) bool, of the masks in MASKS."""
    at = tl.arange(0, TILE)
    t, u = at[:, None], at[None, :]
    if MASK == 0:
        return u <= t
    if MASK == 1:
        return (u <= t) & (u // BLOCK == t // BLOCK)
    if MASK == 2:
        return u // BLOCK < t // BLOCK
    return (u >= t) & (u // BLOCK == t // BLOCK)


@triton.jit
def load_rows(source, stride, q, WIDTH: tl.constexpr, TILE: tl.constexpr):
    """(TILE, WIDTH): the rows of the q tokens of a chunk, and zeros after."""
    at, columns = tl.arange(0, TILE), tl.arange(0, WIDTH)
    return tl.load(source + (at * stride)[:, None] + columns[None, :], mask=(at < q)[:, None], other=0.0)


@triton.jit
def weights_of(r, s, row, q, MASK: tl.constexpr, BLOCK: tl.constexpr, TILE: tl.constexpr):
    """m(t, u) exp(r_t - s_u) of the head whose r and s begin at `row`."""
    at = tl.arange(0, TILE)
    distance = tl.load(r + row + at, mask=at < q, other=0.0)[:, None] - tl.load(s + row + at, mask=at < q)[None, :]
    inside = allowed(MASK, BLOCK, TILE) & (at < q)[None, :] & (at < q)[:, None]
    return tl.exp(tl.where(inside, distance, float("-inf")))


@triton.jit
def product_kernel(
    C,
    B,
    x,
    r,
    s,
    D,  # (g, h), or None: zero
    H,  # (b, c, g, h, p, n) contiguous, or None: zero
    y,
    q,
    chunks,
    groups,
    C_b, C_c, C_g, C_q,
    B_b, B_c, B_g, B_q,
    x_b, x_c, x_g, x_h, x_q,
    HEADS: tl.constexpr,  # of a group
    P: tl.constexpr,
    N: tl.constexpr,
    MASK: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (chunk, batch and group)."""
    c, bg = tl.program_id(0), tl.program_id(1).to(tl.int64)
    b, g = bg // groups, bg % groups
    at, channels = tl.arange(0, TILE), tl.arange(0, P)
    inside = (at < q)[:, None]
    queries = load_rows(C + b * C_b + c * C_c + g * C_g, C_q, q, N, TILE)
    sources = load_rows(B + b * B_b + c * B_c + g * B_g, B_q, q, N, TILE)
    scores = tl.dot(queries, tl.trans(sources), input_precision=PRECISION)
    first = (b * chunks + c) * groups + g  # of this chunk's heads, in units of HEADS
    x += b * x_b + c * x_c + g * x_g
    y += ((b * chunks + c) * q * groups + g) * HEADS * P
    for head in range(HEADS):
        here = first * HEADS + head
        weights = scores * weights_of(r, s, here * q, q, MASK, BLOCK, TILE)
        if D is not None:
            weights = tl.where(at[:, None] == at[None, :], weights + tl.load(D + g * HEADS + head), weights)
        value = load_rows(x + head * x_h, x_q, q, P, TILE)
        out = tl.dot(weights.to(value.dtype), value, input_precision=PRECISION)
        if H is not None:
            state = load_rows(H + here * P * N, N, P, N, P)
            decay = tl.exp(tl.load(r + here * q + at, mask=at < q, other=0.0))
            out += tl.dot(queries, tl.trans(state), input_precision=PRECISION) * decay[:, None]
        to = (at * groups * HEADS + head)[:, None] * P + channels[None, :]
        tl.store(y + to, out.to(y.dtype.element_ty), mask=inside)


@triton.jit
def product_backward_kernel(
    dy,
    C,
    B,
    x,
    r,
    s,
    D,
    H,
    dC,  # (b, c, g, q, n), contiguous, as dB
    dB,
    dx,  # (b, c, q, g, h, p), contiguous
    dr,
    ds,
    dD,  # (b, c, g, h), or None
    dH,  # as H
    q,
    chunks,
    groups,
    C_b, C_c, C_g, C_q,
    B_b, B_c, B_g, B_q,
    x_b, x_c, x_g, x_h, x_q,
    dy_b, dy_c, dy_g, dy_h, dy_q,
    HEADS: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    MASK: tl.constexpr,
    BLOCK: tl.constexpr,
    TILE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Program (chunk, batch and group)."""
    c, bg = tl.program_id(0), tl.program_id(1).to(tl.int64)
    b, g = bg // groups, bg % groups
    at, channels, keys = tl.arange(0, TILE), tl.arange(0, P), tl.arange(0, N)
    inside = (at < q)[:, None]
    queries = load_rows(C + b * C_b + c * C_c + g * C_g, C_q, q, N, TILE)
    sources = load_rows(B + b * B_b + c * B_c + g * B_g, B_q, q, N, TILE)
    scores = tl.dot(queries, tl.trans(sources), input_precision=PRECISION)
    dscores = tl.zeros((TILE, TILE), tl.float32)
    dqueries = tl.zeros((TILE, N), tl.float32)  # through the state
    first = (b * chunks + c) * groups + g
    x += b * x_b + c * x_c + g * x_g
    dy += b * dy_b + c * dy_c + g * dy_g
    start = ((b * chunks + c) * q * groups + g) * HEADS * P
    for head in range(HEADS):
        here = first * HEADS + head
        row = here * q
        dout = load_rows(dy + head * dy_h, dy_q, q, P, TILE)
        drow = tl.zeros((TILE,), tl.float32)
        if H is not None:
            state = load_rows(H + here * P * N, N, P, N, P)
            left = tl.exp(tl.load(r + row + at, mask=at < q, other=0.0))[:, None] * dout.to(tl.float32)
            read = tl.dot(queries, tl.trans(state), input_precision=PRECISION)
            drow += tl.sum(read * left, 1)
            left = left.to(dout.dtype)
            dqueries = tl.dot(left, state, dqueries, input_precision=PRECISION)
            dstate = tl.dot(tl.trans(left), queries, input_precision=PRECISION)
            to_state = dH + here * P * N + channels[:, None] * N + keys[None, :]
            tl.store(to_state, dstate.to(dH.dtype.element_ty))
        decay = weights_of(r, s, row, q, MASK, BLOCK, TILE)
        value = load_rows(x + head * x_h, x_q, q, P, TILE)
        to = start + (at * groups * HEADS + head)[:, None] * P + channels[None, :]
        dweights = tl.dot(dout, tl.trans(value), input_precision=PRECISION) * decay
        weights = scores * decay
        dvalue = tl.dot(tl.trans(weights.to(dout.dtype)), dout, input_precision=PRECISION)
        if D is not None:
            dvalue += dout.to(tl.float32) * tl.load(D + g * HEADS + head)
            tl.store(dD + here, tl.sum(tl.sum(dout.to(tl.float32) * value.to(tl.float32), 1), 0))
        tl.store(dx + to, dvalue.to(dx.dtype.element_ty), mask=inside)
        dscores += dweights
        dexponent = dweights * scores
        tl.store(ds + row + at, -tl.sum(dexponent, 0), mask=at < q)
        drow += tl.sum(dexponent, 1)
        tl.store(dr + row + at, drow, mask=at < q)
    dscores = dscores.to(queries.dtype)
    to = (first * q + at)[:, None] * N + keys[None, :]
    got = tl.dot(dscores, sources, dqueries, input_precision=PRECISION)
    tl.store(dC + to, got.to(dC.dtype.element_ty), mask=inside)
    got = tl.dot(tl.trans(dscores), queries, input_precision=PRECISION)
    tl.store(dB + to, got.to(dB.dtype.element_ty), mask=inside)


def forward(
    C: Tensor,
    B: Tensor,
    x: Tensor,
    r: Tensor,
    s: Tensor,
    D: Tensor | None,
    H: Tensor | None,
    mask: int,
    block_length: int,
) -> Tensor:
    """y as (b, c, q, g, h, p)."""
    b, c, g, h, q, p = x.shape
    y = x.new_empty(b, c, q, g, h, p)
    inputs = C, B, x, r, s, D, H, y, *_sizes(C, B, x)
    product_kernel[(c, b * g)](*inputs, **_options(C, x, mask, block_length), num_warps=4)
    return y


def backward(
    dy: Tensor,
    C: Tensor,
    B: Tensor,
    x: Tensor,
    r: Tensor,
    s: Tensor,
    D: Tensor | None,
    H: Tensor | None,
    mask: int,
    block_length: int,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """Gradients of C, B, x as (b, c, q, g, h, p), r, s, D and H. dy as x."""
    b, c, g, h, q, p = x.shape
    dC, dB = (torch.empty(v.shape, dtype=x.dtype, device=x.device) for v in (C, B))
    dx, dr, ds = x.new_empty(b, c, q, g, h, p), torch.empty_like(r), torch.empty_like(s)
    dD = None if D is None else r.new_empty(b, c, g, h)
    dH = None if H is None else torch.empty_like(H)
    inputs = dy, C, B, x, r, s, D, H, dC, dB, dx, dr, ds, dD, dH, *_sizes(C, B, x), *dy.stride()[:5]
    product_backward_kernel[(c, b * g)](*inputs, **_options(C, x, mask, block_length), num_warps=8, num_stages=2)
    return dC, dB, dx, dr, ds, None if dD is None else torch.sum(dD, (0, 1)), dH


def _sizes(C: Tensor, B: Tensor, x: Tensor) -> tuple[int, ...]:
    return x.shape[4], x.shape[1], x.shape[2], *C.stride()[:4], *B.stride()[:4], *x.stride()[:5]


def _options(C: Tensor, x: Tensor, mask: int, block_length: int) -> dict[str, Any]:
    (*_, heads, q, p), n = x.shape, C.shape[4]
    tile = max(MIN_TILE, triton.next_power_of_2(q))
    shape = {"HEADS": heads, "P": p, "N": n, "MASK": mask, "BLOCK": block_length, "TILE": tile}
    return shape | {"PRECISION": precision(x.dtype, min(tile, p, n))}
