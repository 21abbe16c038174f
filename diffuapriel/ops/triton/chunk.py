"""The kernels of the masked product of a chunk (masked_product.py, which has the equations and shapes)."""

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
    w,
    r,
    s,
    y,
    q,
    chunks,
    groups,
    C_b, C_c, C_g, C_q,
    B_b, B_c, B_g, B_q,
    w_b, w_c, w_g, w_h, w_q,
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
    w += b * w_b + c * w_c + g * w_g
    y += ((b * chunks + c) * q * groups + g) * HEADS * P
    for head in range(HEADS):
        weights = scores * weights_of(r, s, (first * HEADS + head) * q, q, MASK, BLOCK, TILE)
        value = load_rows(w + head * w_h, w_q, q, P, TILE)
        out = tl.dot(weights.to(value.dtype), value, input_precision=PRECISION)
        to = (at * groups * HEADS + head)[:, None] * P + channels[None, :]
        tl.store(y + to, out.to(y.dtype.element_ty), mask=inside)


@triton.jit
def product_backward_kernel(
    dy,  # (b, c, q, g, h, p), contiguous
    C,
    B,
    w,
    r,
    s,
    dC,  # (b, c, g, q, n), contiguous, as dB
    dB,
    dw,  # as dy
    dr,
    ds,
    q,
    chunks,
    groups,
    C_b, C_c, C_g, C_q,
    B_b, B_c, B_g, B_q,
    w_b, w_c, w_g, w_h, w_q,
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
    first = (b * chunks + c) * groups + g
    w += b * w_b + c * w_c + g * w_g
    start = ((b * chunks + c) * q * groups + g) * HEADS * P
    for head in range(HEADS):
        row = (first * HEADS + head) * q
        decay = weights_of(r, s, row, q, MASK, BLOCK, TILE)
        value = load_rows(w + head * w_h, w_q, q, P, TILE)
        to = start + (at * groups * HEADS + head)[:, None] * P + channels[None, :]
        dout = tl.load(dy + to, mask=inside, other=0.0)
        dweights = tl.dot(dout, tl.trans(value), input_precision=PRECISION) * decay
        weights = scores * decay
        dvalue = tl.dot(tl.trans(weights.to(dout.dtype)), dout, input_precision=PRECISION)
        tl.store(dw + to, dvalue.to(dw.dtype.element_ty), mask=inside)
        dscores += dweights
        dexponent = dweights * scores
        tl.store(dr + row + at, tl.sum(dexponent, 1), mask=at < q)
        tl.store(ds + row + at, -tl.sum(dexponent, 0), mask=at < q)
    dscores = dscores.to(queries.dtype)
    to = (first * q + at)[:, None] * N + keys[None, :]
    got = tl.dot(dscores, sources, input_precision=PRECISION)
    tl.store(dC + to, got.to(dC.dtype.element_ty), mask=inside)
    got = tl.dot(tl.trans(dscores), queries, input_precision=PRECISION)
    tl.store(dB + to, got.to(dB.dtype.element_ty), mask=inside)


def forward(C: Tensor, B: Tensor, w: Tensor, r: Tensor, s: Tensor, mask: int, block_length: int) -> Tensor:
    """y as (b, c, q, g, h, p)."""
    b, c, g, h, q, p = w.shape
    y = w.new_empty(b, c, q, g, h, p)
    product_kernel[(c, b * g)](C, B, w, r, s, y, *_sizes(C, B, w), **_options(C, w, mask, block_length), num_warps=4)
    return y


def backward(
    dy: Tensor, C: Tensor, B: Tensor, w: Tensor, r: Tensor, s: Tensor, mask: int, block_length: int
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Gradients of C, B, w, r and s; dy, and that of w, as (b, c, q, g, h, p)."""
    b, c, g = w.shape[:3]
    dC, dB, dw = (torch.empty(v.shape, dtype=w.dtype, device=w.device) for v in (C, B, dy))
    dr, ds = torch.empty_like(r), torch.empty_like(s)
    inputs = dy, C, B, w, r, s, dC, dB, dw, dr, ds, *_sizes(C, B, w)
    product_backward_kernel[(c, b * g)](*inputs, **_options(C, w, mask, block_length), num_warps=8)
    return dC, dB, dw, dr, ds


def _sizes(C: Tensor, B: Tensor, w: Tensor) -> tuple[int, ...]:
    return w.shape[4], w.shape[1], w.shape[2], *C.stride()[:4], *B.stride()[:4], *w.stride()[:5]


def _options(C: Tensor, w: Tensor, mask: int, block_length: int) -> dict[str, Any]:
    (*_, heads, q, p), n = w.shape, C.shape[4]
    tile = max(MIN_TILE, triton.next_power_of_2(q))
    shape = {"HEADS": heads, "P": p, "N": n, "MASK": mask, "BLOCK": block_length, "TILE": tile}
    return shape | {"PRECISION": precision(w.dtype, min(tile, p, n))}
